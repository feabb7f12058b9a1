#include "databases/sqlite/transcriber.h"

#include <algorithm>
#include <thread>

#include "base/clock.h"

namespace walship {

namespace {

constexpr size_t kReadBytes = 1u << 20;
constexpr uint64_t kStopNs = 5'000'000'000;
constexpr auto kRoomPause = std::chrono::microseconds(100);
// SQLite keeps its locks on this byte of the file and never stores anything in the page around it.
constexpr uint64_t kLockByte = 0x40000000;

constexpr bool isLockPage(uint32_t page, uint32_t pageBytes) { return page == kLockByte / pageBytes + 1; }

}  // namespace

void Transcriber::start(const WalPlace& place, uint32_t databasePages, uint64_t lsn) {
  place_ = place;
  databasePages_ = databasePages;
  lsn_ = lsn;
  grown_.clear();
}

// none: the WAL has no header yet.
Result<std::optional<Transcriber::Cursor>> Transcriber::cursor() {
  auto read = index_.fileHeader();
  if (!read) return read.error();
  if (!read.value()) return std::optional<Cursor>{};
  const WalFileHeader& header = *read.value();
  Cursor cursor{header.salts, place_.frame, place_.sum, header.bigEndianSums, header.pageBytes};
  if (place_.frame == 0) cursor.sum = header.sum;
  return std::optional(cursor);
}

Result<bool> Transcriber::forFrames(Cursor& cursor, uint32_t last, const FrameSink& sink) {
  if (place_.frame != 0 && cursor.salts != place_.salts) return false;
  const size_t frameBytes = cursor.pageBytes + kWalFrameHeaderBytes;
  const auto atOnce = static_cast<uint32_t>(std::max<size_t>(1, kReadBytes / frameBytes));
  while (cursor.frame < last) {
    const uint32_t count = std::min(atOnce, last - cursor.frame);
    buffer_.resize(std::max(buffer_.size(), count * frameBytes));
    if (auto read = index_.readFrames(cursor.frame + 1, count, cursor.pageBytes, buffer_); !read) return read.error();
    for (uint32_t i = 0; i < count; ++i) {
      const Bytes frame = Bytes(buffer_).subspan(i * frameBytes, frameBytes);
      if (!checkWalFrame(frame, cursor.salts, cursor.bigEndianSums, cursor.sum)) return false;
      ++cursor.frame;
      if (!sink) continue;
      if (auto taken = sink(decodeWalFrameHeader(frame), frame.subspan(kWalFrameHeaderBytes), cursor); !taken) {
        return taken.error();
      }
    }
  }
  return true;
}

Result<bool> Transcriber::valid(uint32_t last) {
  auto from = cursor();
  if (!from) return from.error();
  if (!from.value() || last <= place_.frame) return false;
  return forFrames(*from.value(), last, nullptr);
}

Result<void> Transcriber::append(uint32_t last) {
  auto from = cursor();
  if (!from) return from.error();
  const auto changed = [&] {
    return fileError("WALSHIP_ERR_SQLITE_WAL_CHANGED",
                     "the WAL does not go on from frame " + std::to_string(place_.frame) +
                         ", up to which it is in the log; the log needs a snapshot of the database",
                     index_.walPath());
  };
  if (!from.value()) return changed();
  Cursor& at = *from.value();
  bool inside = false;  // within a transaction
  auto done = forFrames(at, last, [&](const WalFrameHeader& header, Bytes image, const Cursor& cursor) -> Result<void> {
    if (!inside) {
      writer_.begin(PageRecordType::transaction, cursor.pageBytes);
      grown_.clear();
      inside = true;
    }
    writer_.add(header.page, image);
    if (header.page > databasePages_) {
      const size_t behind = header.page - databasePages_;
      if (grown_.size() < behind) grown_.resize(behind);
      grown_[behind - 1] = true;
    }
    const WalPlace place{cursor.salts, cursor.frame, cursor.sum};
    if (header.dbPages != 0) {
      if (auto added = addUnwritten(header.dbPages, cursor.pageBytes); !added) return added;
      if (auto appended = appendRecord(header.dbPages, place); !appended) return appended;
      databasePages_ = header.dbPages;
      place_ = place;
      ++transactions_;
      inside = false;
    } else if (writer_.full()) {
      return appendRecord(0, place);
    }
    return {};
  });
  if (!done) return done.error();
  if (!done.value() || inside) return changed();
  return {};
}

// A transaction that makes the database longer does not write pages that it leaves free. They are as they are in the
// primary's file, so that the files of all nodes are the same.
Result<void> Transcriber::addUnwritten(uint32_t databasePages, uint32_t pageBytes) {
  if (databasePages <= databasePages_) return {};
  grown_.resize(std::max<size_t>(grown_.size(), databasePages - databasePages_));
  std::optional<WalIndexHeader> before;
  for (uint32_t page = databasePages_ + 1; page <= databasePages; ++page) {
    if (grown_[page - databasePages_ - 1] || isLockPage(page, pageBytes)) continue;
    if (!before) {
      auto header = index_.readHeader();
      if (!header) return header.error();
      before = header.value();
      before->frames = std::min(before->frames, place_.frame);
    }
    page_.resize(pageBytes);
    if (auto read = index_.readPage(page, *before, page_); !read) return read;
    writer_.add(page, page_);
    if (writer_.full()) {
      if (auto appended = appendRecord(0, place_); !appended) return appended;
    }
  }
  return {};
}

Result<void> Transcriber::appendRecord(uint32_t databasePages, const WalPlace& place) {
  const Bytes record = writer_.finish(databasePages, place, wallUs());
  const uint64_t startNs = monotonicNs();
  for (;;) {
    auto end = engine_.append(record);
    if (end) {
      if (databasePages == 0) return {};
      lsn_ = end.value();
      engine_.pump().setApplied(lsn_);  // it comes from the database
      return {};
    }
    if (!end.error().is("WALSHIP_ERR_BACKPRESSURE")) return end.error();
    if (stop_.load(std::memory_order_acquire) && elapsedNs(startNs, monotonicNs()) > kStopNs) return end.error();
    std::this_thread::sleep_for(kRoomPause);
  }
}

Result<void> Transcriber::appendAnchor(const WalPlace& place, uint32_t pageBytes, uint32_t databasePages, Bytes firstPage) {
  writer_.begin(PageRecordType::transaction, pageBytes, true);
  writer_.add(1, firstPage);
  return appendRecord(databasePages, place);
}

Result<void> Transcriber::appendSnapshot(const WalIndexHeader& header, uint32_t pageBytes, uint32_t databasePages,
                                         const std::function<void(uint32_t page)>& progress) {
  const WalPlace place{header.salts, header.frames, header.frameSum};
  writer_.begin(PageRecordType::snapshot, pageBytes);
  page_.resize(pageBytes);
  for (uint32_t page = 1; page <= databasePages; ++page) {
    if (!isLockPage(page, pageBytes)) {
      if (auto read = index_.readPage(page, header, page_); !read) return read;
      writer_.add(page, page_);
    }
    if (page < databasePages && writer_.full()) {
      if (auto appended = appendRecord(0, place); !appended) return appended;
      progress(page);
    }
  }
  if (auto appended = appendRecord(databasePages, place); !appended) return appended;
  ++transactions_;
  start(place, databasePages, lsn_);
  return {};
}

}  // namespace walship

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
  lastFrames_.clear();
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

Result<std::optional<Transcriber::Unpublished>> Transcriber::unpublished(const WalIndexHeader& header) {
  std::optional<Unpublished> none;
  auto from = cursor();
  if (!from) return from.error();
  if (!from.value() || header.frames >= place_.frame) return none;
  Cursor& at = *from.value();
  if (header.frames != 0) {
    if (header.salts != at.salts) return none;
    at.sum = header.frameSum;
  } else {
    auto file = index_.fileHeader();
    if (!file) return file.error();
    if (!file.value()) return none;
    at.sum = file.value()->sum;
  }
  at.frame = header.frames;
  Unpublished found{at.salts, at.bigEndianSums, at.pageBytes, databasePages_, place_.sum, {}};
  auto whole = forFrames(at, place_.frame, [&](const WalFrameHeader& frame, Bytes, const Cursor&) -> Result<void> {
    found.pages.push_back(frame.page);
    return {};
  });
  if (!whole) return whole.error();
  if (!whole.value() || at.sum != place_.sum) return none;
  return std::optional(std::move(found));
}

Result<void> Transcriber::append(uint32_t last) {
  auto appended = appendFrames(last);
  if (!appended) copyBroken_ = true;
  return appended;
}

Result<void> Transcriber::appendFrames(uint32_t last) {
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
      lastFrames_.clear();
      inside = true;
    }
    writer_.add(header.page, image);
    lastFrames_.emplace_back(header.page, cursor.frame);
    if (header.page > databasePages_) {
      const size_t behind = header.page - databasePages_;
      if (grown_.size() < behind) grown_.resize(behind);
      grown_[behind - 1] = true;
    }
    const WalPlace place{cursor.salts, cursor.frame, cursor.sum};
    if (header.dbPages != 0) {
      if (auto added = addUnwritten(header.dbPages, cursor.pageBytes); !added) return added;
      if (auto appended = appendRecord(true, header.dbPages, place); !appended) return appended;
      databasePages_ = header.dbPages;
      place_ = place;
      ++transactions_;
      inside = false;
    } else if (writer_.full()) {
      return appendRecord(false, 0, place);
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
      if (auto appended = appendRecord(false, 0, place_); !appended) return appended;
    }
  }
  return {};
}

Result<void> Transcriber::appendRecord(bool last, uint32_t databasePages, const WalPlace& place) {
  const Bytes record = writer_.finish(last, databasePages, place, wallUs());
  const uint64_t startNs = monotonicNs();
  for (;;) {
    auto end = engine_.append(record);
    if (end) {
      if (!last) return {};
      lsn_ = end.value();
      engine_.pump().setApplied(lsn_);  // it comes from the database
      return {};
    }
    if (!end.error().is("WALSHIP_ERR_BACKPRESSURE")) return end.error();
    // Without a lease nothing is committed, so no room comes; and it may be this thread that would have it renewed.
    const bool ending = stop_.load(std::memory_order_acquire) || engine_.pump().leaseLost();
    if (ending && elapsedNs(startNs, monotonicNs()) > kStopNs) return end.error();
    std::this_thread::sleep_for(kRoomPause);
  }
}

Result<void> Transcriber::appendAnchor(const WalPlace& place, uint32_t pageBytes, uint32_t databasePages, Bytes firstPage) {
  writer_.begin(PageRecordType::transaction, pageBytes, true);
  writer_.add(1, firstPage);
  return appendRecord(true, databasePages, place);
}

Result<void> Transcriber::appendSnapshot(const WalIndexHeader& header, uint32_t pageBytes, uint32_t databasePages,
                                         const std::function<void(uint32_t page)>& progress) {
  const WalPlace place{header.salts, header.frames, header.frameSum};
  copyBroken_ = true;
  writer_.begin(PageRecordType::snapshot, pageBytes);
  page_.resize(pageBytes);
  for (uint32_t page = 1; page <= databasePages; ++page) {
    if (!isLockPage(page, pageBytes)) {
      if (auto read = index_.readPage(page, header, page_); !read) return read;
      writer_.add(page, page_);
    }
    if (page < databasePages && writer_.full()) {
      if (auto appended = appendRecord(false, databasePages, place); !appended) return appended;
      progress(page);
    }
  }
  if (auto appended = appendRecord(true, databasePages, place); !appended) return appended;
  ++transactions_;
  start(place, databasePages, lsn_);
  return {};
}

// ---- copies ----

void Transcriber::beginCopy(uint32_t pageBytes) {
  copyWriter_.begin(PageRecordType::copy, pageBytes, true);
  copyPageBytes_ = pageBytes;
  copyNext_ = 1;
  copyBroken_ = false;
}

// Into page_, as the log's transactions so far have left it. In wait mode the last of them may be in the log and not yet
// in the wal-index, as its writer waits for the commit rule: its pages are read from its frames.
Result<void> Transcriber::readPageAtPlace(uint32_t page, const WalIndexHeader& header) {
  page_.resize(copyPageBytes_);
  if (place_.frame > header.frames) {
    for (auto known = lastFrames_.rbegin(); known != lastFrames_.rend() && known->second > header.frames; ++known) {
      if (known->first != page) continue;
      const size_t bytes = kWalFrameHeaderBytes + copyPageBytes_;
      buffer_.resize(std::max(buffer_.size(), bytes));
      if (auto read = index_.readFrames(known->second, 1, copyPageBytes_, buffer_); !read) return read;
      const Bytes image = Bytes(buffer_).subspan(kWalFrameHeaderBytes, copyPageBytes_);
      std::copy(image.begin(), image.end(), page_.begin());
      return {};
    }
  }
  return index_.readPage(page, header, page_);
}

Result<Transcriber::CopyStep> Transcriber::appendCopy(const WalIndexHeader& header) {
  const bool published = place_ == WalPlace{header.salts, header.frames, header.frameSum};
  const bool ahead = place_.frame > header.frames && (header.frames == 0 || place_.salts == header.salts);
  // Nobody has written to this WAL yet, or what it held is in the database file.
  const bool unwritten = header.frames == 0 && place_.frame == 0;
  if (copyBroken_ || !(published || ahead || unwritten)) {
    return makeError("WALSHIP_ERR_SQLITE_COPY_BROKEN", "the database has changed in a way that the copy under way cannot follow");
  }
  uint32_t page = copyNext_;
  for (; page <= databasePages_ && (copyWriter_.pageCount() == 0 || !copyWriter_.full()); ++page) {
    if (isLockPage(page, copyPageBytes_)) continue;
    if (auto read = readPageAtPlace(page, header); !read) return read.error();
    copyWriter_.add(page, page_);
  }
  const bool last = page > databasePages_;
  const Bytes record = copyWriter_.finish(last, databasePages_, place_, wallUs());
  const uint64_t bytes = record.size();
  auto end = engine_.append(record);
  if (!end) {
    copyWriter_.takeBack();
    return end.error();
  }
  copyNext_ = page;
  if (last) copyBroken_ = true;  // there is none any more
  engine_.pump().setApplied(end.value());
  return CopyStep{end.value() - bytes, end.value(), std::min(page - 1, databasePages_), databasePages_, last};
}

}  // namespace walship

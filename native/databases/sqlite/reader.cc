#include "databases/sqlite/reader.h"

#include <thread>

#include "base/clock.h"

namespace walship {

namespace {

constexpr uint64_t kArenaPatienceNs = 10'000'000'000;
constexpr size_t kCompactBytes = 1u << 20;

// Waits while every page of the arena is in use.
template <class Attempt>
auto patiently(Attempt&& attempt) {
  const uint64_t deadline = monotonicNs() + kArenaPatienceNs;
  while (true) {
    auto outcome = attempt();
    if (outcome || !outcome.error().is("WALSHIP_ERR_ARENA_BUSY") || monotonicNs() > deadline) return outcome;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// LSNs in a page where an append begins, and so a record: behind a frame whose last append is whole. The first record
// of a log begins at its start.
Result<std::vector<uint64_t>> recordStartsIn(Engine& engine, uint64_t page) {
  auto pin = patiently([&] { return engine.store().fetch(page, Access::tailRead); });
  if (!pin) return pin.error();
  std::vector<uint64_t> starts;
  const Pin& held = pin.value();
  forEachFrame(held.bytes(), 0, held.filled(), [&](const FrameHeader& header, Bytes) {
    if (header.parent == 0) starts.push_back(header.lsn);
    if ((header.flags & kFrameContinues) == 0) starts.push_back(header.lsn + header.length);
    return true;
  });
  return starts;
}

}  // namespace

void RecordParser::feed(Bytes bytes) {
  if (done_ >= kCompactBytes || done_ == buffer_.size()) {
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(done_));
    done_ = 0;
  }
  buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
}

std::optional<LogRecord> RecordParser::next() {
  while (buffer_.size() - done_ >= kPageRecordHeaderBytes) {
    const Bytes rest = Bytes(buffer_).subspan(done_);
    auto header = parsePageRecordHeader(rest);
    const size_t bytes = header ? header.value().recordBytes : kPageRecordHeaderBytes;
    if (rest.size() < bytes) return std::nullopt;
    const uint64_t start = lsn_;
    done_ += bytes;
    lsn_ += bytes;
    if (!header) continue;
    auto record = parsePageRecord(rest.first(bytes));
    if (record) return LogRecord{start, lsn_, record.value()};
  }
  return std::nullopt;
}

Result<std::optional<LogRecord>> RecordReader::next(uint64_t limitLsn) {
  while (true) {
    if (auto record = parser_.next()) return record;
    if (parser_.endLsn() >= limitLsn) return std::optional<LogRecord>{};
    auto chunk = patiently([&] { return engine_.read(parser_.endLsn(), limitLsn, true); });
    if (!chunk) return chunk.error();
    if (!chunk.value()) return std::optional<LogRecord>{};
    parser_.feed(chunk.value()->bytes);
  }
}

Result<std::optional<uint64_t>> firstRecordStart(Engine& engine) {
  const uint64_t flushed = engine.store().flushedLsn();
  if (flushed <= engine.log().firstLsn()) return std::optional<uint64_t>{};
  auto last = engine.store().pageOf(flushed - 1);
  if (!last) return last.error();
  for (uint64_t page = engine.log().firstPage(); page <= last.value(); ++page) {
    auto starts = recordStartsIn(engine, page);
    if (!starts) return starts.error();
    if (!starts.value().empty()) return std::optional(starts.value().front());
  }
  return std::optional<uint64_t>{};
}

Result<std::optional<uint64_t>> transactionBefore(Engine& engine, uint64_t lsn) {
  if (lsn <= engine.log().firstLsn()) return std::optional<uint64_t>{};
  auto last = engine.store().pageOf(lsn - 1);
  if (!last) return last.error();
  // Backwards, part by part, each read once: a transaction may be larger than any part.
  bool endsBehind = false;  // behind the part, a transaction ends that began in it or before it
  uint64_t partEnd = lsn;
  for (uint64_t page = last.value() + 1; page-- > engine.log().firstPage();) {
    auto starts = recordStartsIn(engine, page);
    if (!starts) return starts.error();
    if (starts.value().empty() || starts.value().front() >= partEnd) continue;
    const uint64_t partStart = starts.value().front();
    RecordReader reader(engine, partStart);
    std::optional<uint64_t> begun;
    bool firstSeen = false;
    bool endSeen = false;  // of one that began before the part
    while (true) {
      auto record = reader.next(partEnd);
      if (!record) return record.error();
      if (!record.value()) break;
      const PageRecordHeader& header = record.value()->view.header();
      if (header.copy()) return std::optional(record.value()->startLsn);
      if (header.first()) {
        begun = record.value()->startLsn;
        firstSeen = true;
      }
      if (header.last() && begun) return begun;
      if (header.last() && !firstSeen) endSeen = true;
    }
    if (begun && endsBehind) return begun;
    // With no beginning in the part, what ends behind it ends behind the parts before it, too.
    endsBehind = endSeen || (endsBehind && !firstSeen);
    partEnd = partStart;
  }
  return std::optional<uint64_t>{};
}

}  // namespace walship

// The capture's copies of the database for nodes that have nothing: record by record, between transactions, so that
// nobody who writes waits for more than one of them. record.h says what a copy is.
#include <algorithm>

#include "base/clock.h"
#include "databases/sqlite/capture.h"

namespace walship {

namespace {
constexpr uint64_t kMs = 1'000'000;
constexpr uint32_t kReadMs = 20;      // for a moment in which nobody commits between two looks at the wal-index
constexpr uint32_t kPaceMs = 20;      // for the commit rule, per record
constexpr uint32_t kPaceSliceMs = 2;
constexpr auto kPause = std::chrono::microseconds(500);
constexpr auto kFlushPause = std::chrono::microseconds(100);
constexpr uint32_t kBrokenMax = 10;   // in a row, without one that came to its end
}  // namespace

Result<uint64_t> Capture::snapshotNow() {
  const std::lock_guard one(copying_);
  Result<uint64_t> copied = uint64_t{0};
  for (uint32_t tries = 0; tries < kBrokenMax; ++tries) {
    copied = copyDatabase();
    if (copied || !copied.error().is("WALSHIP_ERR_SQLITE_COPY_BROKEN")) break;
  }
  snapshotPages_.store(0);
  snapshotPagesDone_.store(0);
  return copied;
}

Result<uint64_t> Capture::copyDatabase() {
  {
    const std::lock_guard lock(mutex_);
    if (!index_) return makeError("WALSHIP_ERR_CLOSED", "the database is not captured any more");
    transcriber_->beginCopy(pageBytes_);
  }
  std::optional<uint64_t> beginLsn;
  while (!ending_.load(std::memory_order_acquire)) {
    auto step = copyStep();
    if (!step) {
      if (!step.error().is("WALSHIP_ERR_BACKPRESSURE") && !step.error().is("WALSHIP_ERR_SQLITE_BUSY")) return step.error();
      std::this_thread::sleep_for(kPause);
      continue;
    }
    const Transcriber::CopyStep& done = step.value();
    if (!beginLsn) beginLsn = done.startLsn;
    snapshotPages_.store(done.databasePages);
    snapshotPagesDone_.store(done.donePages);
    if (done.last) {
      snapshots_.fetch_add(1);
      snapshotLsn_.store(*beginLsn);
      return done.endLsn;
    }
    paceCopy(done);
  }
  return makeError("WALSHIP_ERR_CLOSED", "the database was closed before the snapshot was complete");
}

// The capture's lock is held from here to the append, so that no transaction comes between what is read and the record:
// the pages are as every transaction before the record has left them, and none behind it.
Result<Transcriber::CopyStep> Capture::copyStep() {
  const std::lock_guard lock(mutex_);
  if (!index_) return makeError("WALSHIP_ERR_CLOSED", "the database is not captured any more");
  WalIndexHeader header;
  if (auto begun = beginRead(header, kReadMs, true); !begun) return begun.error();
  auto step = transcriber_->appendCopy(header);
  endRead();
  return step;
}

// Begins a read transaction of connection_ at `header`: checkpoints leave the pages of then in the files until endRead().
// `captured`: and has captured everything up to it. WALSHIP_ERR_SQLITE_BUSY: somebody commits all the time.
Result<void> Capture::beginRead(WalIndexHeader& header, uint32_t timeoutMs, bool captured) {
  const uint64_t deadlineNs = monotonicNs() + timeoutMs * kMs;
  for (;;) {
    auto now = index_->readHeader();
    if (!now) return now.error();
    header = now.value();
    if (captured) {
      if (auto done = captureTo(header); !done) return done;
    }
    const int begun = sqlite3_exec(connection_.get(), "BEGIN; PRAGMA schema_version", nullptr, nullptr, nullptr);
    if (begun != SQLITE_OK) {
      endRead();
      return index_->error("cannot begin a transaction", begun);
    }
    const auto after = index_->tryHeader();
    if (after && *after == header) return {};
    endRead();
    if (monotonicNs() > deadlineNs) {
      return fileError("WALSHIP_ERR_SQLITE_BUSY", "the database is written to all the time", path_);
    }
  }
}

void Capture::endRead() { sqlite3_exec(connection_.get(), "ROLLBACK", nullptr, nullptr, nullptr); }

// One record at a time is on its way, so that a commit stands behind no more than that. But the log must not get more of
// the database's own writing meanwhile than of the copy: with a log that retains twice the database, the copy's beginning
// would be trimmed before its end is written.
void Capture::paceCopy(const Transcriber::CopyStep& step) {
  const uint64_t deadlineNs = monotonicNs() + kPaceMs * kMs;
  while (!ending_.load(std::memory_order_acquire) && monotonicNs() < deadlineNs) {
    if (engine_.pump().appender().endLsn() - step.endLsn >= step.endLsn - step.startLsn) return;
    if (engine_.store().flushedLsn() < step.endLsn) {
      std::this_thread::sleep_for(kFlushPause);
    } else if (engine_.pump().waitCommitted(step.endLsn, kPaceSliceMs)) {
      return;
    }
  }
}

}  // namespace walship

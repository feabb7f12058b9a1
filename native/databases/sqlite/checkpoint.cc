// The capture's checkpointer, and how the WAL is begun anew.
#include <algorithm>

#include "base/clock.h"
#include "databases/sqlite/capture.h"

namespace walship {

namespace {
constexpr uint64_t kMs = 1'000'000;
constexpr auto kLockPause = std::chrono::microseconds(50);
constexpr auto kFlushPause = std::chrono::microseconds(50);
constexpr uint32_t kGivenUpPauseMs = 5;
constexpr uint32_t kLockMs = 50;
constexpr uint32_t kFlushMs = 200;
constexpr uint32_t kBlockedPauseMs = 200;  // between two tries to begin a large WAL anew
}  // namespace

void Capture::checkpointer() {
  uint64_t notBeforeNs = 0;
  while (!ending_.load(std::memory_order_acquire)) {
    {
      std::unique_lock lock(sleepMutex_);
      const auto wanted = [&] {
        return ending_.load(std::memory_order_acquire) || (checkpointDue_ && monotonicNs() >= notBeforeNs);
      };
      uint32_t pauseMs = checkpointDue_ ? std::min(kBlockedPauseMs, settings_.checkpointMs) : settings_.checkpointMs;
      if (givenUpLsn_.load(std::memory_order_acquire) != 0) pauseMs = kGivenUpPauseMs;
      checkpointWanted_.wait_for(lock, std::chrono::milliseconds(pauseMs), wanted);
      checkpointDue_ = false;
    }
    if (ending_.load(std::memory_order_acquire)) return;
    if (auto published = publishGivenUp(kLockMs, false); !published) failed(published.error());
    if (auto done = checkpointOnce(); !done) failed(done.error());
    if (blockedSinceNs_.load() != 0) notBeforeNs = monotonicNs() + kBlockedPauseMs * kMs;
  }
}

Result<void> Capture::checkpointOnce() {
  WalIndex& index = *checkpointIndex_;
  if (!index.pinned()) {
    if (auto pinned = index.pin(); !pinned) return pinned.error();
  }
  auto header = index.readHeader();
  if (!header) return header.error();
  const uint32_t frames = header.value().frames;
  if (frames == 0) return {};
  if (index.backfilled() < frames) {
    auto done = index.checkpoint();
    if (!done) return done.error();
    checkpoints_.fetch_add(1);
  }
  if (walFrameOffset(frames + 1, header.value().pageBytes()) <= settings_.checkpointBytes) return {};
  auto restarted = restartWal();
  if (!restarted) return restarted.error();
  if (restarted.value()) {
    blockedSinceNs_.store(0);
  } else if (blockedSinceNs_.load() == 0) {
    blockedSinceNs_.store(monotonicNs());
  }
  return {};
}

bool Capture::awaitFlushed(uint64_t lsn, uint32_t timeoutMs) {
  const uint64_t deadlineNs = monotonicNs() + timeoutMs * kMs;
  while (engine_.store().flushedLsn() < lsn) {
    if (monotonicNs() > deadlineNs) return false;
    std::this_thread::sleep_for(kFlushPause);
  }
  return true;
}

Result<bool> Capture::lockWrite(WalIndexHeader& header, uint32_t timeoutMs) {
  const uint64_t deadlineNs = monotonicNs() + timeoutMs * kMs;
  for (;;) {
    auto locked = checkpointIndex_->lockWrite(header);
    if (!locked || locked.value()) return locked;
    if (monotonicNs() > deadlineNs) return false;
    std::this_thread::sleep_for(kLockPause);
  }
}

// Everything in the WAL must be in the log, flushed, and in the database file. Most of that is done before the write
// lock is taken, so that writers wait for little.
Result<bool> Capture::restartWal() {
  auto captured = captureNow();
  if (!captured) return captured.error();
  if (!awaitFlushed(captured.value(), kFlushMs)) return false;
  WalIndex& index = *checkpointIndex_;
  WalIndexHeader header;
  auto locked = lockWrite(header, kLockMs);
  if (!locked || !locked.value()) return locked;
  Result<bool> outcome = false;
  {
    const std::lock_guard lock(mutex_);
    auto rest = captureTo(header);
    const WalPlace& place = transcriber_->place();
    if (!rest) {
      outcome = rest.error();
    } else if (givenUpLsn_.load(std::memory_order_acquire) != 0) {
      outcome = false;  // what it wrote is not visible yet
    } else if (place != WalPlace{header.salts, header.frames, header.frameSum}) {
      snapshotDue_ = true;  // the log holds what SQLite gave up
    } else {
      int frames = 0;
      int backfilled = 0;
      // With the write lock held through the file, not by the connection: this connection may checkpoint.
      sqlite3_wal_checkpoint_v2(index.connection(), "main", SQLITE_CHECKPOINT_PASSIVE, &frames, &backfilled);
      if (index.backfilled() == header.frames) outcome = beginGeneration(header);
    }
  }
  index.unlockWrite();
  if (outcome && outcome.value()) restarts_.fetch_add(1);
  return outcome;
}

// With the write lock and mutex_. The new generation begins with a commit of page 1 as it is, so that its salts are ours
// (SQLite's writers may choose others for an empty WAL), and that commit is in the log before it is in the WAL: so the
// log always tells how the WAL that a restart finds belongs to it.
Result<bool> Capture::beginGeneration(WalIndexHeader& header) {
  WalIndex& index = *checkpointIndex_;
  const uint32_t pageBytes = pageBytes_;
  std::vector<std::byte> bytes(kWalHeaderBytes + kWalFrameHeaderBytes + pageBytes);
  const MutableBytes frame = MutableBytes(bytes).subspan(kWalHeaderBytes);
  const MutableBytes image = frame.subspan(kWalFrameHeaderBytes);
  if (auto read = index.readPage(1, header, image); !read) return read.error();
  WalFileHeader file;
  if (auto before = index.fileHeader(); before && before.value()) file = *before.value();
  file.bigEndianSums = false;
  file.pageBytes = pageBytes;
  ++file.checkpoints;
  file.salts = WalIndex::nextSalts(header);
  encodeWalFileHeader(file, MutableBytes(bytes).first(kWalHeaderBytes));
  WalChecksum sum = file.sum;
  encodeWalFrameHeader(1, header.dbPages, file.salts, false, image, sum, frame.first(kWalFrameHeaderBytes));
  const WalPlace place{file.salts, 1, sum};
  if (auto appended = transcriber_->appendAnchor(place, pageBytes, header.dbPages, image); !appended) {
    return appended.error();
  }
  if (!awaitFlushed(transcriber_->lsn(), kFlushMs)) return false;

  if (header.frames != 0) {
    auto restarted = index.restart(header, file.salts);
    if (!restarted || !restarted.value()) return restarted;
  }
  header.salts = file.salts;
  // SQLite syncs a new header, too, before frames of the new generation can be synced.
  if (auto written = index.writeWal(bytes, 0); !written) return written.error();
  if (auto synced = index.syncWal(); !synced) return synced.error();
  if (auto added = index.addFrame(1, 1, header); !added) return added.error();
  header.frames = 1;
  header.frameSum = sum;
  header.bigEndianSums = 0;
  header.setPageBytes(pageBytes);
  ++header.change;
  index.publish(header);
  transcriber_->start(place, header.dbPages, transcriber_->lsn());
  return true;
}

}  // namespace walship

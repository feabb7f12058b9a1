// This node's copy of the log: the pages in memory, the pages on disk, and where each of them ends.
//
// Threads: the pump owns the received tail (advance, openPage, cut); the flusher calls flush(), and the pump flushes in
// passToFlusher(), one of them at a time; reading calls are safe from any thread. The tail page is always in memory and
// pinned.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <set>

#include "cache/arena.h"
#include "log/log.h"

namespace walship {

enum class SyncMode : uint8_t { everyBatch, interval, never };

struct SyncSettings {
  SyncMode mode = SyncMode::everyBatch;
  uint32_t intervalMs = 10;  // of SyncMode::interval
};

// Who waits for the sync of what is received.
enum class SyncUrgency : uint8_t {
  none,     // nobody: it is given to the kernel at once, and synced some milliseconds later
  usual,
  awaited,  // a commit
  only,     // a commit, and nobody waits for anything else of this node
};

class Store {
 public:
  // Loads the tail page. `arena` and `log` outlive the store.
  static Result<std::unique_ptr<Store>> open(Arena& arena, Log& log, const LogPosition& tail, const SyncSettings& sync);

  Arena& arena() { return arena_; }
  Log& log() { return log_; }
  const Geometry& geometry() const { return log_.geometry(); }

  // ---- the received tail: pump ----
  const LogPosition& received() const { return received_; }
  const Pin& tailPage() const { return tail_; }
  // An empty log without a first page header can still be moved to another start.
  bool empty() const { return received_.offset == 0 && received_.page == log_.firstPage(); }
  // Frames up to `to` stand, checked, in the tail page. The flusher learns of them by passToFlusher().
  void advance(const LogPosition& to);
  // The tail page is done; `next` (the page after it, pinned) is the new one.
  void openPage(Pin next);
  // Has flushed what is received, if the tail has moved: after the bytes are on their way to others, whom that must not
  // delay. Wakes the flusher for it; where the disk syncs soon, little is flushed at once, here. Gives the time of that; 0:
  // the flusher's.
  uint64_t passToFlusher(SyncUrgency urgency);
  // An empty log takes over the place of the upstream's first page.
  Result<void> startAt(const LogPosition& position);
  // The place behind the last append of which all frames are here. Blocks for the disk.
  Result<LogPosition> wholeTail();
  // Divergence: cuts the log back. Blocks for the disk. Error WALSHIP_ERR_BUSY: somebody holds a page of the tail.
  Result<void> cut(const LogPosition& to);

  // ---- the epochs ----
  const NodeRecord& record() const { return record_; }
  uint64_t epoch() const { return record_.history.empty() ? 0 : record_.history.back().epoch; }
  Result<void> storeRecord(NodeRecord record);

  // ---- any thread ----
  uint64_t receivedLsn() const { return receivedLsn_.load(std::memory_order_acquire); }
  uint64_t flushedLsn() const { return flushedLsn_.load(std::memory_order_acquire); }
  // Blocks until `flushed` is no longer `known`, at most `timeoutMs`. Gives `flushed` back.
  uint64_t waitFlushed(uint64_t known, uint32_t timeoutMs);
  // The page, from memory or disk. Blocks. WALSHIP_ERR_ARENA_BUSY: no page can leave at the moment.
  Result<Pin> fetch(uint64_t page, Access access);
  // The page that holds the byte `lsn`, or, at the tail, the tail page.
  Result<uint64_t> pageOf(uint64_t lsn);
  // The last place between two frames at or below `lsn`. Blocks.
  Result<LogPosition> boundary(uint64_t lsn);

  // ---- the flusher ----
  // Waits until there is something to write or sync, at most `timeoutMs`; stop() ends it.
  void waitForWork(uint32_t timeoutMs);
  // Writes and syncs one batch. true: `flushedLsn` moved.
  Result<bool> flush();
  // Notes in the log how far it is synced. Apart from flush(): nobody who waits for `flushed` waits for it.
  Result<void> mark();
  // Upkeep of the files (log/log.h), in the flusher's place: it may take long, and the pump does not wait for it.
  Result<uint64_t> trimBelow(uint64_t lsn);
  Result<void> repairPage(uint64_t page, Bytes bytes, uint64_t replaces);
  Result<std::vector<ShortSegment>> shortSegments(bool grow);
  // Behind the last frame that is flushed.
  LogPosition lastFlushedFrame();
  // Wakes the flusher for good; what is received by then is still flushed by flush().
  void stop();
  // Syncs what interval mode left unsynced.
  Result<bool> flushAll();

 private:
  Store(Arena& arena, Log& log, const SyncSettings& sync) : arena_(arena), log_(log), sync_(sync) {}
  Result<void> loadTailPage(const LogPosition& tail);
  Result<bool> flushBatch(bool syncNow);
  bool aimFlusher();
  uint64_t flushHere(uint64_t syncNsMax);
  bool writeHere();

  Arena& arena_;
  Log& log_;
  const SyncSettings sync_;
  NodeRecord record_;

  std::mutex flushedMutex_;
  std::condition_variable flushedMoved_;
  std::atomic<uint32_t> flushedWaiters_{0};

  bool flushDue_ = false;  // the tail has moved since passToFlusher(); pump
  LogPosition received_;   // written by the pump; copied for the flusher into target_
  Pin tail_;
  std::atomic<uint64_t> receivedLsn_{0};
  std::atomic<uint64_t> flushedLsn_{0};

  struct PageStart {
    uint64_t page;
    uint64_t firstLsn;
  };
  std::mutex recentMutex_;
  std::deque<PageStart> recent_;  // pages not wholly flushed: the log on disk may not know them yet

  std::mutex loadMutex_;
  std::condition_variable loadDone_;
  std::set<uint64_t> loading_;

  std::mutex targetMutex_;
  std::condition_variable targetMoved_;
  LogPosition target_;
  bool stopping_ = false;
  std::atomic<bool> unhurried_{false};  // SyncUrgency::none, as said last

  std::mutex flushMutex_;   // held through a batch: cut() and the flusher exclude each other
  LogPosition written_;     // given to the kernel; changed under targetMutex_ as well
  LogPosition lastFrame_;   // the end of the last frame written: as written_, unless a new page has just begun
  LogPosition flushed_;     // synced
  LogPosition flushedFrame_;  // lastFrame_ at that sync
  uint64_t lastSyncNs_ = 0;
  uint64_t syncTakesNs_ = UINT64_MAX;  // of late; not known before the first one
  std::optional<Error> failed_;        // of a flush outside of the flusher, which has yet to be told
  bool markDue_ = false;      // synced further than the log's mark says
};

}  // namespace walship

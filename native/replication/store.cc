#include "replication/store.h"

#include <thread>

#include "base/clock.h"

namespace walship {

namespace {
// A batch is one sync; a larger one would only delay the acknowledgement of its first bytes.
constexpr size_t kBatchBytesMax = 4u << 20;
// What takes less time than a thread needs to wake. And, if somebody waits for the disk, what is as little as one commit:
// of more, the next ones would be held up. Not where all that this node is there for is that sync: then the next ones
// are received, and synced together, after it.
constexpr uint64_t kQuickSyncNs = 30'000;
constexpr uint64_t kAwaitedSyncNs = 300'000;
constexpr uint64_t kOnlySyncNs = 2'000'000;
constexpr size_t kAwaitedBytesMax = 4u << 10;
constexpr size_t kQuickBytesMax = 64u << 10;
constexpr uint32_t kUnhurriedMs = 20;  // between syncs that nobody waits for
constexpr uint64_t kPinPatienceNs = 5'000'000'000;
}  // namespace

Result<std::unique_ptr<Store>> Store::open(Arena& arena, Log& log, const LogPosition& tail, const SyncSettings& sync) {
  auto record = NodeRecordFile::load(log.settings().dir);
  if (!record) return record.error();
  std::unique_ptr<Store> store(new Store(arena, log, sync));
  store->record_ = record.take();
  store->written_ = store->flushed_ = store->target_ = tail;
  store->lastFrame_ = store->flushedFrame_ = tail;
  store->lastSyncNs_ = monotonicNs();
  // An epoch can be recorded before its first bytes are on disk; a crash in between leaves a start beyond the tail.
  EpochHistory& history = store->record_.history;
  while (!history.empty() && history.back().firstLsn > tail.lsn) history.pop_back();
  // Whoever has noted an epoch has promised it.
  store->record_.promisedEpoch = std::max(store->record_.promisedEpoch, store->epoch());
  if (auto loaded = store->loadTailPage(tail); !loaded) return loaded.error();
  return store;
}

Result<void> Store::loadTailPage(const LogPosition& tail) {
  const bool begun = tail.offset != 0;
  if (Pin here = arena_.find(tail.page, Access::ship)) {
    tail_ = std::move(here);
  } else {
    Pin pin = arena_.create(tail.page, begun ? PageOrigin::loaded : PageOrigin::appended);
    if (!pin) return makeError("WALSHIP_ERR_ARENA_BUSY", "no free page for the log's tail; make arena.bytes larger");
    if (begun) {
      auto end = log_.readPage(tail.page, pin.bytes());
      if (!end || end.value() != tail) {
        arena_.discard(std::move(pin));
        if (!end) return end.error();
        return makeError("WALSHIP_ERR_LOG_CORRUPT", "the last page of the log changed while it was being opened");
      }
      arena_.publishLoaded(pin, tail, false);
    }
    tail_ = std::move(pin);
  }
  received_ = tail;
  receivedLsn_.store(tail.lsn, std::memory_order_release);
  flushedLsn_.store(flushed_.lsn, std::memory_order_release);
  const std::lock_guard lock(recentMutex_);
  recent_.clear();
  uint64_t firstLsn = tail.lsn;
  if (begun) firstLsn = loadAt<PageHeader>(tail_.bytes(), 0).firstLsn;
  recent_.push_back({tail.page, firstLsn});
  return {};
}

void Store::advance(const LogPosition& to) {
  WALSHIP_ASSERT(to.page == tail_.page() && to.lsn >= received_.lsn);
  arena_.publish(tail_, to);
  received_ = to;
  receivedLsn_.store(to.lsn, std::memory_order_release);
  flushDue_ = true;
}

void Store::openPage(Pin next) {
  WALSHIP_ASSERT(next.page() == received_.page + 1 && tail_.page() == received_.page);
  arena_.finish(tail_);
  tail_ = std::move(next);
  {
    const std::lock_guard lock(recentMutex_);
    recent_.push_back({tail_.page(), received_.lsn});
  }
  received_.page += 1;
  received_.offset = 0;
  flushDue_ = true;
}

bool Store::aimFlusher() {
  if (!std::exchange(flushDue_, false)) return false;
  const std::lock_guard lock(targetMutex_);
  target_ = received_;
  return true;
}

uint64_t Store::passToFlusher(SyncUrgency urgency) {
  if (!aimFlusher()) return 0;
  unhurried_.store(urgency == SyncUrgency::none, std::memory_order_relaxed);
  if (urgency == SyncUrgency::none && writeHere()) return 0;
  uint64_t syncNsMax = kQuickSyncNs;
  if (urgency == SyncUrgency::awaited && received_.lsn - flushedLsn() <= kAwaitedBytesMax) syncNsMax = kAwaitedSyncNs;
  if (urgency == SyncUrgency::only) syncNsMax = kOnlySyncNs;
  if (const uint64_t tookNs = flushHere(syncNsMax); tookNs != 0) return tookNs;
  const std::lock_guard lock(targetMutex_);
  targetMoved_.notify_one();
  return 0;
}

// Gives little to the kernel: from there on it outlives this process. The flusher finds it by itself. false: it is the
// flusher's.
bool Store::writeHere() {
  if (sync_.mode != SyncMode::everyBatch) return false;
  const std::unique_lock flushing(flushMutex_, std::try_to_lock);
  if (!flushing || failed_ || received_.lsn - written_.lsn > kQuickBytesMax) return false;
  if (auto written = flushBatch(false); !written) failed_ = written.error();
  return !failed_;
}

// 0: it was not done here, or not well.
uint64_t Store::flushHere(uint64_t syncNsMax) {
  if (sync_.mode != SyncMode::everyBatch) return 0;
  const std::unique_lock flushing(flushMutex_, std::try_to_lock);
  if (!flushing || failed_ || syncTakesNs_ > syncNsMax || received_.lsn - flushed_.lsn > kQuickBytesMax) return 0;
  const uint64_t before = monotonicNs();
  // A sync that has failed must not be tried again: the next one would say that all is well. The flusher tells it.
  if (auto moved = flushBatch(true); !moved) {
    failed_ = moved.error();
    return 0;
  }
  return std::max<uint64_t>(monotonicNs() - before, 1);
}

Result<void> Store::startAt(const LogPosition& position) {
  WALSHIP_ASSERT(empty() && position.offset == 0);
  const std::lock_guard flushing(flushMutex_);
  if (auto started = log_.startAt(position); !started) return started;
  arena_.discard(std::move(tail_));
  flushed_ = lastFrame_ = flushedFrame_ = position;
  {
    const std::lock_guard lock(targetMutex_);
    written_ = target_ = position;
  }
  return loadTailPage(position);
}

Result<void> Store::cut(const LogPosition& to) {
  const std::lock_guard flushing(flushMutex_);
  WALSHIP_ASSERT(to.lsn <= received_.lsn);
  // What is cut off is set aside from the files: it must be in them.
  aimFlusher();
  while (written_ != received_) {
    if (auto written = flushBatch(true); !written) return written.error();
  }
  tail_.release();
  const uint64_t deadline = monotonicNs() + kPinPatienceNs;
  while (!arena_.cutBack(to)) {
    if (monotonicNs() > deadline) {
      if (auto again = loadTailPage(received_); !again) return again;
      return makeError("WALSHIP_ERR_BUSY", "a reader holds a page of the tail that is to be cut");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (lastFrame_.lsn > to.lsn) {
    if (auto cut = log_.truncate(to, lastFrame_); !cut) return cut;
  }
  // Beyond the cut there may also be only the padding of a finished page.
  const bool writtenBeyond = lastFrame_.lsn > to.lsn || written_.page > to.page;
  if (writtenBeyond) lastFrame_ = to;
  if (flushed_.lsn > to.lsn || flushed_.page > to.page) flushed_ = flushedFrame_ = to;
  {
    const std::lock_guard lock(targetMutex_);
    target_ = to;
    if (writtenBeyond) written_ = to;
  }
  if (auto loaded = loadTailPage(to); !loaded) return loaded;

  NodeRecord record = record_;
  EpochHistory& history = record.history;
  while (!history.empty() && (history.back().firstLsn > to.lsn || (history.back().firstLsn == to.lsn && history.size() > 1))) {
    history.pop_back();
  }
  record.protectedLsn = std::min(record.protectedLsn, to.lsn);  // less only if an operator said so
  return storeRecord(std::move(record));
}

Result<void> Store::storeRecord(NodeRecord record) {
  if (auto stored = NodeRecordFile::store(log_.settings().dir, record); !stored) return stored;
  record_ = std::move(record);
  return {};
}

Result<Pin> Store::fetch(uint64_t page, Access access) {
  std::unique_lock lock(loadMutex_);
  while (true) {
    if (Pin pin = arena_.find(page, access)) return pin;
    if (!loading_.contains(page)) break;
    loadDone_.wait(lock);
  }
  loading_.insert(page);
  lock.unlock();

  Error error;
  Pin pin = arena_.create(page, PageOrigin::loaded);
  if (!pin) {
    error = makeError("WALSHIP_ERR_ARENA_BUSY", "no page of the arena can leave at the moment");
  } else if (auto end = log_.readPage(page, pin.bytes()); !end) {
    error = end.error();
    arena_.discard(std::move(pin));
  } else {
    arena_.publishLoaded(pin, end.value(), true);
    arena_.noteLoadedFor(page, access);
  }

  lock.lock();
  loading_.erase(page);
  loadDone_.notify_all();
  if (pin) return pin;
  return error;
}

Result<uint64_t> Store::pageOf(uint64_t lsn) {
  {
    const std::lock_guard lock(recentMutex_);
    for (auto entry = recent_.rbegin(); entry != recent_.rend(); ++entry) {
      if (entry->firstLsn <= lsn) return entry->page;
    }
  }
  return log_.pageOf(lsn);
}

Result<LogPosition> Store::boundary(uint64_t lsn) {
  auto page = pageOf(lsn);
  if (!page) return page.error();
  auto pin = fetch(page.value(), Access::catchUp);
  if (!pin) return pin.error();
  const bool begun = pin.value().filled() != 0;
  if (begun) {
    const LogPosition found = boundaryAt(pin.value().bytes(), pin.value().filled(), lsn);
    if (found.offset > kPageHeaderBytes) return found;
  }
  // At the very start of a page the place is written as the end of the page before.
  if (page.value() == log_.firstPage()) {
    WALSHIP_ASSERT(begun);  // an empty log has nothing to look for
    const auto header = loadAt<PageHeader>(pin.value().bytes(), 0);
    return LogPosition{header.firstLsn, header.parent, 0, page.value(), 0};
  }
  auto before = fetch(page.value() - 1, Access::catchUp);
  if (!before) return before.error();
  return arena_.end(before.value());
}

Result<LogPosition> Store::wholeTail() {
  if (empty()) return received_;
  for (uint64_t page = received_.page;; --page) {
    auto pin = fetch(page, Access::catchUp);
    if (!pin) return pin.error();
    std::optional<uint64_t> whole;
    uint64_t first = received_.lsn;
    if (pin.value().filled() != 0) {
      first = loadAt<PageHeader>(pin.value().bytes(), 0).firstLsn;
      forEachFrame(pin.value().bytes(), 0, pin.value().filled(), [&](const FrameHeader& header, Bytes) {
        if ((header.flags & kFrameContinues) == 0) whole = header.lsn + header.length;
        return true;
      });
    }
    // In what is trimmed, it would have begun, or ended, at the least of what there is.
    if (!whole && page == log_.firstPage()) whole = first;
    if (whole) return *whole == received_.lsn ? received_ : boundary(*whole);
  }
}

void Store::waitForWork(uint32_t timeoutMs) {
  std::unique_lock lock(targetMutex_);
  const bool unhurried = unhurried_.load(std::memory_order_relaxed) && written_.lsn != flushedLsn();
  targetMoved_.wait_for(lock, std::chrono::milliseconds(unhurried ? std::min(timeoutMs, kUnhurriedMs) : timeoutMs),
                        [&] { return stopping_ || target_ != written_; });
}

void Store::stop() {
  const std::lock_guard lock(targetMutex_);
  stopping_ = true;
  targetMoved_.notify_one();
}

Result<bool> Store::flush() {
  const std::lock_guard flushing(flushMutex_);
  if (failed_) return *std::exchange(failed_, std::nullopt);
  const bool unhurried = unhurried_.load(std::memory_order_relaxed);
  const uint32_t pauseMs = sync_.mode == SyncMode::interval ? sync_.intervalMs : unhurried ? kUnhurriedMs : 0;
  const bool due = sync_.mode != SyncMode::never && monotonicNs() - lastSyncNs_ >= uint64_t{pauseMs} * 1'000'000;
  return flushBatch(due);
}

Result<bool> Store::flushAll() {
  const std::lock_guard flushing(flushMutex_);
  if (failed_) return *std::exchange(failed_, std::nullopt);
  while (true) {
    auto moved = flushBatch(true);
    if (!moved || !moved.value()) return moved;
  }
}

// Invariant: `flushed` is reported only after the sync of the very bytes returned.
Result<bool> Store::flushBatch(bool syncNow) {
  LogPosition target;
  {
    const std::lock_guard lock(targetMutex_);
    target = target_;
  }
  LogPosition at = written_;
  size_t bytes = 0;
  Result<void> outcome;
  while (at != target && bytes < kBatchBytesMax) {
    const Pin pin = arena_.find(at.page, Access::flush);
    WALSHIP_ASSERT(pin);  // unflushed pages do not leave
    const bool last = at.page == target.page;
    const uint32_t to = last ? target.offset : geometry().pageBytes;
    if (to > at.offset) {
      outcome = log_.write(at.page, at.offset, pin.bytes().subspan(at.offset, to - at.offset));
      if (!outcome) break;  // what was written before it counts: a full disk is tried again from here
      bytes += to - at.offset;
    }
    if (last) {
      at = target;
      if (at.offset != 0) lastFrame_ = at;
    } else {
      const LogPosition end = arena_.end(pin);
      lastFrame_ = end;
      at = {end.lsn, end.headerChecksum, end.epoch, at.page + 1, 0};
    }
  }
  {
    const std::lock_guard lock(targetMutex_);
    written_ = at;
  }
  if (!outcome && (at == flushed_ || !outcome.error().is("WALSHIP_ERR_DISK_FULL"))) return outcome.error();
  if (written_ == flushed_ || !(syncNow || sync_.mode == SyncMode::never)) return false;
  if (syncNow) {
    const uint64_t before = monotonicNs();
    if (auto synced = log_.sync(); !synced) return synced.error();
    lastSyncNs_ = monotonicNs();
    const uint64_t tookNs = lastSyncNs_ - before;
    // One that takes long counts at once, many that do not make up for it.
    syncTakesNs_ = syncTakesNs_ == UINT64_MAX ? tookNs : (7 * syncTakesNs_ + tookNs) / 8;
  }
  for (uint64_t page = flushed_.page; page < at.page; ++page) {
    const Pin pin = arena_.find(page, Access::flush);
    WALSHIP_ASSERT(pin);
    arena_.setFlushed(pin);
  }
  const bool moved = at.lsn > flushed_.lsn;
  flushed_ = at;
  flushedFrame_ = lastFrame_;
  flushedLsn_.store(at.lsn, std::memory_order_seq_cst);
  if (flushedWaiters_.load(std::memory_order_seq_cst) > 0) {
    const std::lock_guard lock(flushedMutex_);
    flushedMoved_.notify_all();
  }
  if (moved && syncNow) markDue_ = true;
  const std::lock_guard lock(recentMutex_);
  while (recent_.size() > 1 && recent_[0].page < at.page) recent_.pop_front();
  return moved;
}

Result<void> Store::mark() {
  const std::lock_guard flushing(flushMutex_);
  if (!std::exchange(markDue_, false)) return {};
  return log_.mark(flushedFrame_);
}

Result<uint64_t> Store::trimBelow(uint64_t lsn) {
  const std::lock_guard flushing(flushMutex_);
  return log_.trimBelow(lsn);
}

Result<void> Store::repairPage(uint64_t page, Bytes bytes, uint64_t replaces) {
  const std::lock_guard flushing(flushMutex_);
  return log_.repairPage(page, bytes, replaces);
}

Result<std::vector<ShortSegment>> Store::shortSegments(bool grow) {
  const std::lock_guard flushing(flushMutex_);
  return log_.shortSegments(grow);
}

uint64_t Store::waitFlushed(uint64_t known, uint32_t timeoutMs) {
  const auto moved = [&] { return flushedLsn_.load(std::memory_order_seq_cst) != known; };
  if (!moved()) {
    flushedWaiters_.fetch_add(1, std::memory_order_seq_cst);
    std::unique_lock lock(flushedMutex_);
    flushedMoved_.wait_for(lock, std::chrono::milliseconds(timeoutMs), moved);
    flushedWaiters_.fetch_sub(1, std::memory_order_seq_cst);
  }
  return flushedLsn();
}

LogPosition Store::lastFlushedFrame() {
  const std::lock_guard flushing(flushMutex_);
  return flushedFrame_;
}

}  // namespace walship

#include "databases/sqlite/capture.h"

#include <algorithm>

#include "base/clock.h"

namespace walship {

namespace {
constexpr uint64_t kMs = 1'000'000;
// After a commit the thread looks again at this interval instead of being woken: a wake costs the writer a system call.
constexpr auto kNap = std::chrono::microseconds(250);
constexpr uint64_t kAwakeNs = 10 * kMs;
constexpr uint32_t kCommitSliceMs = 50;
constexpr uint32_t kStopFlushMs = 5000;
constexpr uint32_t kStopLockMs = 2000;
constexpr auto kRetryPause = std::chrono::milliseconds(20);
}  // namespace

Result<std::unique_ptr<Capture>> Capture::start(Engine& engine, const std::string& path, const CaptureSettings& settings,
                                                EventSink events) {
  auto hook = hookOf(path);
  if (!hook) return hook.error();
  std::unique_ptr<Capture> capture(new Capture(engine, path, settings, std::move(events)));
  capture->hook_ = hook.take();
  auto sidecar = Sidecar::open(path);
  if (!sidecar) return sidecar.error();
  capture->sidecar_ = sidecar.take();
  if (auto resumed = capture->resume(); !resumed) return resumed.error();
  capture->wait_.store(settings.wait);
  capture->hook_->attach(capture.get(), settings.wait ? WalHook::Mode::wait : WalHook::Mode::notify);
  capture->started_ = true;
  Capture& self = *capture;
  self.thread_ = std::thread([&self] { self.run(); });
  self.checkpointThread_ = std::thread([&self] { self.checkpointer(); });
  return capture;
}

Capture::~Capture() { static_cast<void>(stop()); }

Result<void> Capture::stop(WalHook::Mode then) {
  if (!std::exchange(started_, false)) return {};
  refuseWrites(true);
  hook_->detach(WalHook::Mode::refuse);
  ending_.store(true, std::memory_order_release);
  wake();
  {
    const std::lock_guard lock(sleepMutex_);
    checkpointWanted_.notify_all();
  }
  thread_.join();
  checkpointThread_.join();
  const auto published = publishGivenUp(kStopLockMs, true);
  auto captured = published ? captureNow() : Result<uint64_t>(published.error());
  const bool flushed = captured && awaitFlushed(captured.value(), kStopFlushMs);
  {
    const std::lock_guard lock(mutex_);
    transcriber_.reset();
    index_.reset();
    connection_.reset();
  }
  checkpointIndex_.reset();
  checkpointConnection_.reset();
  hook_->setMode(then);
  if (!captured) return captured.error();
  // The state of the files after SQLite has closed them, and perhaps removed the WAL.
  return sidecar_->update([&](SidecarState& state) {
    state.role = SidecarRole::primary;
    state.appliedLsn = captured.value();
    state.closedCleanly = flushed;
    state.place = {};
    state.stamp = sidecar_->stampNow();
    return true;
  });
}

void Capture::event(const char* type, const Error& detail, uint64_t lsn) {
  events_({type, engine_.settings().nodeId, detail.code, detail.message, lsn});
}

CaptureStatus Capture::status() {
  CaptureStatus status;
  {
    // A snapshot under way holds it for long; then what was seen last is told.
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock && transcriber_) {
      seenLsn_.store(transcriber_->lsn());
      seenTransactions_.store(transcriber_->transactions());
    }
    if (lock) status.problem = problem_;
  }
  status.capturedLsn = seenLsn_.load();
  status.transactions = seenTransactions_.load();
  status.snapshots = snapshots_.load();
  status.snapshotLsn = snapshotLsn_.load();
  status.snapshotPages = snapshotPages_.load();
  status.snapshotPagesDone = snapshotPagesDone_.load();
  const uint64_t blockedSince = blockedSinceNs_.load();
  status.walBytes = walBytes_.load();
  status.checkpoints = checkpoints_.load();
  status.restarts = restarts_.load();
  status.blockedMs = blockedSince == 0 ? 0 : elapsedNs(blockedSince, monotonicNs()) / kMs;
  status.commitTimeouts = commitTimeouts_.load();
  return status;
}

void Capture::setWait(bool wait) {
  const std::lock_guard lock(modeMutex_);
  wait_.store(wait);
  if (!refusing_) hook_->setMode(wait ? WalHook::Mode::wait : WalHook::Mode::notify);
}

void Capture::refuseWrites(bool forGood) {
  const std::lock_guard lock(modeMutex_);
  refusing_ = true;
  refusingForGood_ |= forGood;
  hook_->setMode(WalHook::Mode::refuse);
}

void Capture::allowWrites() {
  const std::lock_guard lock(modeMutex_);
  if (refusingForGood_) return;
  refusing_ = false;
  hook_->setMode(wait_.load() ? WalHook::Mode::wait : WalHook::Mode::notify);
}

Result<uint64_t> Capture::captureNow() {
  const std::lock_guard lock(mutex_);
  if (!index_) return makeError("WALSHIP_ERR_CLOSED", "the database is not captured any more");
  auto header = index_->readHeader();
  if (!header) return header.error();
  if (auto captured = captureTo(header.value()); !captured) return captured.error();
  return transcriber_->lsn();
}

// With mutex_.
Result<void> Capture::captureTo(const WalIndexHeader& header) {
  if (snapshotDue_) return snapshot();
  const WalPlace& place = transcriber_->place();
  walBytes_.store(walFrameOffset(header.frames + 1, header.pageBytes()), std::memory_order_relaxed);
  if (header.frames == 0 || (header.frames <= place.frame && header.salts == place.salts)) return {};
  auto appended = transcriber_->append(header.frames);
  if (!appended && appended.error().is("WALSHIP_ERR_SQLITE_WAL_CHANGED")) {
    event("sqlite-snapshot", appended.error(), transcriber_->lsn());
    snapshotDue_ = true;
    return snapshot();
  }
  return appended;
}

void Capture::failed(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (!problem_ || !problem_->is(error.code)) event("sqlite-capture-failed", error, transcriber_->lsn());
  problem_ = error;
  // Commits that no log will hold are worse than none.
  if (error.is("WALSHIP_ERR_NOT_PRIMARY")) refuseWrites(true);
}

// true: something was captured.
bool Capture::round() {
  Result<void> outcome;
  bool busy = false;
  {
    const std::lock_guard lock(mutex_);
    const uint64_t before = transcriber_->transactions();
    const auto header = index_->tryHeader();
    if (!header) {
      // A commit is being written, or no wal-index is valid: then reading makes one.
      if (auto read = index_->readHeader(); !read) outcome = read.error();
    } else {
      outcome = captureTo(*header);
    }
    busy = transcriber_->transactions() != before;
    if (outcome.ok()) problem_.reset();
  }
  if (!outcome && !ending_.load(std::memory_order_acquire)) {
    failed(outcome.error());
    std::this_thread::sleep_for(kRetryPause);
  }
  if (walBytes_.load(std::memory_order_relaxed) > settings_.checkpointBytes) {
    const std::lock_guard lock(sleepMutex_);
    if (!std::exchange(checkpointDue_, true)) checkpointWanted_.notify_one();
  }
  return busy;
}

void Capture::run() {
  uint64_t lastBusyNs = 0;
  while (!ending_.load(std::memory_order_acquire)) {
    const uint64_t nowNs = monotonicNs();
    if (round()) lastBusyNs = nowNs;
    if (elapsedNs(lastBusyNs, nowNs) < kAwakeNs) {
      std::this_thread::sleep_for(kNap);
    } else {
      sleep();
    }
  }
}

void Capture::sleep() {
  hook_->sleepy(true);
  bool more = false;
  {
    // What was committed before the writers knew that somebody sleeps.
    const std::lock_guard lock(mutex_);
    const auto header = index_->tryHeader();
    const WalPlace& place = transcriber_->place();
    more = !header || (header->frames != 0 && (header->frames > place.frame || header->salts != place.salts));
  }
  if (!more) {
    std::unique_lock lock(sleepMutex_);
    woken_.wait_for(lock, std::chrono::milliseconds(settings_.pollMs),
                    [&] { return wakeDue_ || ending_.load(std::memory_order_acquire); });
    wakeDue_ = false;
  }
  hook_->sleepy(false);
}

void Capture::wake() {
  const std::lock_guard lock(sleepMutex_);
  wakeDue_ = true;
  woken_.notify_one();
}

// ---- on the writer's thread, in wait mode ----

bool Capture::mayCommit() { return engine_.counters()[kIsPrimary].load(std::memory_order_acquire) != 0; }

bool Capture::commitWritten(uint64_t offset) {
  uint64_t lsn = 0;
  Result<void> outcome;
  {
    const std::lock_guard lock(mutex_);
    auto file = index_->fileHeader();
    if (!file || !file.value()) return true;
    const uint32_t frameBytes = file.value()->pageBytes + static_cast<uint32_t>(kWalFrameHeaderBytes);
    const auto frame = static_cast<uint32_t>((offset - kWalHeaderBytes) / frameBytes + 1);
    const WalPlace& place = transcriber_->place();
    const bool there = frame <= place.frame && file.value()->salts == place.salts;
    // Written over what the log holds already: SQLite gave that transaction up after it was captured.
    if (there && frame < place.frame) snapshotDue_ = true;
    if (there && !snapshotDue_) return true;
    // What is visible now; the transaction goes on from there. It must not be acknowledged before the log has both.
    if (snapshotDue_) outcome = snapshot();
    if (outcome) {
      auto valid = transcriber_->valid(frame);
      if (valid && !valid.value()) return true;  // more writes follow, or the capture thread finds out what is wrong
      outcome = valid ? transcriber_->append(frame) : Result<void>(valid.error());
    }
    lsn = transcriber_->lsn();
  }
  if (!outcome) {
    failed(outcome.error());
    return false;
  }
  if (awaitCommit(lsn)) return true;
  // While SQLite's write lock is still held: nobody else writes over it.
  refuseWrites(false);
  givenUpLsn_.store(lsn, std::memory_order_release);
  const std::lock_guard lock(sleepMutex_);
  checkpointDue_ = true;
  checkpointWanted_.notify_one();
  return false;
}

// A writer had to let go of a transaction that its log holds: whether it is committed could not be told. What the log holds
// counts, here as on every other node: the frames, which the WAL has, become visible after all; in mode wait once the rule
// holds for them, or when the capture ends. By the checkpointer, or after it.
Result<void> Capture::publishGivenUp(uint32_t lockMs, bool atOnce) {
  const uint64_t lsn = givenUpLsn_.load(std::memory_order_acquire);
  if (lsn == 0) return {};
  if (!atOnce && wait_.load() && !engine_.pump().waitCommitted(lsn, 0)) return {};
  WalIndexHeader header;
  auto locked = lockWrite(header, lockMs);
  if (!locked) return locked.error();
  if (!locked.value()) return index_->error("another connection is writing", SQLITE_BUSY);
  Result<void> outcome;
  {
    const std::lock_guard lock(mutex_);
    auto frames = transcriber_->unpublished(header);
    if (!frames) {
      outcome = frames.error();
    } else if (!frames.value()) {
      // Another process has written over it, unless SQLite has found it itself.
      const WalPlace now{header.salts, header.frames, header.frameSum};
      if (transcriber_->place() != now) snapshotDue_ = true;
    } else {
      outcome = publish(*frames.value(), header);
    }
  }
  checkpointIndex_->unlockWrite();
  if (!outcome) return outcome;
  givenUpLsn_.store(0, std::memory_order_release);
  allowWrites();
  return {};
}

// With the write lock and mutex_.
Result<void> Capture::publish(const Transcriber::Unpublished& transaction, WalIndexHeader& header) {
  WalIndexHeader next = header;
  next.salts = transaction.salts;
  next.bigEndianSums = transaction.bigEndianSums ? 1 : 0;
  next.setPageBytes(transaction.pageBytes);
  for (const uint32_t page : transaction.pages) {
    if (auto added = checkpointIndex_->addFrame(++next.frames, page, header); !added) return added;
  }
  next.frameSum = transaction.sum;
  next.dbPages = transaction.databasePages;
  ++next.change;
  checkpointIndex_->publish(next);
  return {};
}

// The thread that waits may be the one whose controller would renew the lease, or learn that another node is primary now:
// once the lease is over it must be let go, without a word that the transaction is committed.
bool Capture::leaseEnded(uint64_t lsn) {
  if (!engine_.pump().leaseLost() && mayCommit()) return false;
  event("sqlite-commit-timeout",
        makeError("WALSHIP_ERR_LEASE",
                  "this node may not commit any more; whether the transaction survives is not known: look for it on the primary"),
        lsn);
  return true;
}

bool Capture::awaitCommit(uint64_t lsn) {
  const uint64_t startNs = monotonicNs();
  while (hook_->mode() == WalHook::Mode::wait) {
    uint32_t sliceMs = kCommitSliceMs;
    if (settings_.commitTimeoutMs != 0) {
      const uint64_t gone = elapsedNs(startNs, monotonicNs()) / kMs;
      if (gone >= settings_.commitTimeoutMs) {
        commitTimeouts_.fetch_add(1);
        event("sqlite-commit-timeout",
              makeError("WALSHIP_ERR_COMMIT_TIMEOUT",
                        "the commit rule did not hold in time; the transaction stays, and may yet be committed"),
              lsn);
        return true;
      }
      sliceMs = static_cast<uint32_t>(std::min<uint64_t>(sliceMs, settings_.commitTimeoutMs - gone));
    }
    if (engine_.pump().waitCommitted(lsn, sliceMs)) return true;
    if (leaseEnded(lsn)) return false;
  }
  return hook_->mode() != WalHook::Mode::refuse;
}

}  // namespace walship

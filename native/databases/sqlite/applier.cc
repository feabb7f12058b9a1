#include "databases/sqlite/applier.h"

#include "base/clock.h"
#include "databases/sqlite/extension.h"

namespace walship {

namespace {
constexpr uint32_t kIdleMs = 20;
constexpr auto kRetry = std::chrono::milliseconds(100);
constexpr auto kLockRetry = std::chrono::microseconds(200);
constexpr uint64_t kRenewRetryNs = 20'000'000;
}  // namespace

Result<std::unique_ptr<Applier>> Applier::open(Engine& engine, const std::string& path,
                                               const ApplierSettings& settings) {
  if (auto loaded = sqliteLoaded(); !loaded) return loaded.error();
  WALSHIP_ASSERT(engine.settings().appliedByHand);
  std::unique_ptr<Applier> applier(new Applier(engine, path, settings));
  auto sidecar = Sidecar::open(path);
  if (!sidecar) return sidecar.error();
  applier->sidecar_ = sidecar.take();
  for (const auto& [connection, index] : {std::pair(&applier->connection_, &applier->index_),
                                          std::pair(&applier->checkpointConnection_, &applier->checkpointIndex_)}) {
    auto opened = openConnection(path);
    if (!opened) return opened.error();
    *connection = opened.take();
    auto indexed = WalIndex::open(connection->get());
    if (!indexed) return indexed.error();
    index->emplace(indexed.take());
  }
  auto writer = WalWriter::open(*applier->index_);
  if (!writer) return writer.error();
  applier->writer_.emplace(writer.take());
  return applier;
}

Applier::~Applier() { stop(); }

void Applier::start() {
  WALSHIP_ASSERT(!thread_.joinable());
  stopping_.store(false);
  thread_ = std::thread([this] { run(); });
  checkpointThread_ = std::thread([this] { checkpointer(); });
}

void Applier::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true);
  }
  moved_.notify_all();
  thread_.join();
  checkpointThread_.join();
  checkpointed(checkpointOnce(*checkpointIndex_));
  WalPlace place;
  if (const auto header = index_->tryHeader()) place = {header->salts, header->frames, header->frameSum};
  writer_.reset();
  index_.reset();
  checkpointIndex_.reset();
  connection_.reset();
  checkpointConnection_.reset();
  // Closing may have emptied the WAL: the stamp comes last.
  checkpointed(sidecar_->update([&](SidecarState& state) {
    state.closedCleanly = true;
    state.stamp = sidecar_->stampNow();
    state.place = place;
    return state.role == SidecarRole::standby;
  }));
}

bool Applier::drain(uint32_t timeoutMs) {
  const uint64_t flushed = engine_.store().flushedLsn();
  std::unique_lock lock(mutex_);
  return moved_.wait_for(lock, std::chrono::milliseconds(timeoutMs),
                         [&] { return seenLsn_.load() >= flushed || stopping_.load(); }) &&
         seenLsn_.load() >= flushed;
}

ApplierStatus Applier::status() const {
  ApplierStatus status;
  const uint64_t nowNs = monotonicNs();
  const auto msSince = [&](uint64_t ns) { return ns == 0 ? 0 : elapsedNs(ns, nowNs) / 1'000'000; };
  status.appliedLsn = applied_.load();
  status.appliedUs = appliedUs_.load();
  status.transactions = transactions_.load();
  status.commits = commits_.load();
  status.pages = pages_.load();
  status.walBytes = walBytes_.load();
  status.checkpoints = checkpoints_.load();
  status.checkpointedMsAgo = msSince(checkpointedNs_.load());
  status.blockedMs = msSince(blockedSinceNs_.load());
  status.snapshotNeeded = snapshotNeededSeen_.load();
  status.snapshotPages = snapshotPages_.load();
  status.snapshotPagesDone = snapshotPagesDone_.load();
  const std::lock_guard lock(mutex_);
  status.problem = problem_ ? problem_ : checkpointProblem_;
  return status;
}

void Applier::problem(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (!problem_ || problem_->message != error.message) {
    engine_.pump().newEvent({"sqlite-problem", engine_.settings().nodeId, error.code, error.message, applied_.load()});
  }
  problem_ = error;
}

void Applier::checkpointed(const Result<void>& outcome) {
  const std::lock_guard lock(mutex_);
  checkpointProblem_ = outcome ? std::nullopt : std::optional(outcome.error());
}

// ---- the thread ----

void Applier::run() {
  bool troubled = false;
  while (!stopping_.load(std::memory_order_acquire)) {
    const uint64_t cuts = engine_.pump().cuts();
    if (cuts % 2 == 1) {
      // The log is being cut: what it holds now may not stay.
      std::this_thread::sleep_for(kLockRetry);
      continue;
    }
    Result<bool> worked = true;
    const uint64_t flushed = engine_.store().flushedLsn();
    if (cuts != cuts_) {
      cuts_ = cuts;
      seenLsn_.store(0);
      dropBatch();
      if (auto reconciled = reconcile(); !reconciled) worked = reconciled.error();
    } else {
      worked = applyAvailable(flushed);
    }
    if (!worked) {
      dropBatch();
      problem(worked.error());
      troubled = true;
      cuts_ = UINT64_MAX;  // from where the database surely is, again
      std::unique_lock lock(mutex_);
      moved_.wait_for(lock, kRetry, [&] { return stopping_.load(); });
      // Somebody else has written here: only people can know what is to be kept.
      if (worked.error().is("WALSHIP_ERR_SQLITE_FOREIGN_WRITE")) moved_.wait(lock, [&] { return stopping_.load(); });
      continue;
    }
    if (troubled && !snapshotNeeded_) {
      const std::lock_guard lock(mutex_);
      problem_.reset();
    }
    troubled = snapshotNeeded_;
    renewWal();
    if (worked.value()) continue;
    {
      const std::lock_guard lock(mutex_);
      seenLsn_.store(flushed);
    }
    moved_.notify_all();
    engine_.store().waitFlushed(flushed, kIdleMs);
  }
  dropBatch();
}

// true: there may be more.
Result<bool> Applier::applyAvailable(uint64_t flushed) {
  bool any = false;
  while (!stopping_.load(std::memory_order_acquire)) {
    auto record = reader_.next(flushed);
    if (!record) return record.error();
    if (!record.value()) break;
    any = true;
    if (auto taken = applyRecord(*record.value()); !taken) return taken.error();
  }
  if (batchEndLsn_ != 0) {
    if (auto committed = commitBatch(); !committed) return committed.error();
  }
  return any;
}

Result<void> Applier::applyRecord(const LogRecord& record) {
  const PageRecordHeader& header = record.view.header();
  if (header.copy()) return applyCopy(record);
  if (header.first()) {
    // One that its primary did not live to finish.
    if (transactionOpen_) dropBatch();
    if (header.type == PageRecordType::snapshot && copyOpen_) dropBatch();
    if (snapshotNeeded_ && !copyOpen_) {
      const bool whole = header.type == PageRecordType::snapshot ||
                         (header.last() && header.pageCount >= header.databasePages);
      if (!whole) return {};
    }
    // What is whole must not wait for what may take long.
    if (!header.last() && batchEndLsn_ != 0) {
      if (auto committed = commitBatch(); !committed) return committed;
    }
    nextPart_ = 0;
  } else if (!transactionOpen_ || header.part != nextPart_) {
    return {};  // of one whose beginning is not here
  }
  ++nextPart_;
  transactionOpen_ = !header.last();
  if (!writer_->begun() && header.pageCount > 0) {
    auto begun = begin(header.pageBytes);
    if (!begun) return begun.error();
    if (!begun.value()) return {};
  }
  if (auto appended = appendPages(record.view); !appended) return appended;
  if (header.type == PageRecordType::snapshot && snapshotNeeded_) snapshotCame(record.view);
  if (!header.last()) return {};
  ++batchTransactions_;
  if (copyOpen_) return {};  // no state of the database before the copy is whole
  snapshotNeeded_ = false;
  batchEndLsn_ = record.endLsn;
  batchUs_ = header.commitUs;
  batchDatabasePages_ = header.databasePages;
  if (writer_->begun() && uint64_t{writer_->appended()} * header.pageBytes >= settings_.batchBytes) return commitBatch();
  return {};
}

// A node that has the database takes the place in the log only. One that has not puts everything from the copy's first
// record to its last one into one commit.
Result<void> Applier::applyCopy(const LogRecord& record) {
  const PageRecordHeader& header = record.view.header();
  if (transactionOpen_) dropBatch();
  if (snapshotNeeded_) {
    if (header.first()) {
      if (copyOpen_) dropBatch();
      copyOpen_ = true;
      nextCopyPart_ = 0;
      holdLog(record.startLsn);  // a restart begins there again
    } else if (!copyOpen_ || header.part != nextCopyPart_) {
      return {};
    }
    ++nextCopyPart_;
    if (!writer_->begun()) {
      auto begun = begin(header.pageBytes);
      if (!begun) return begun.error();
      if (!begun.value()) return {};
    }
    if (auto appended = appendPages(record.view); !appended) return appended;
    snapshotCame(record.view);
    if (!header.last()) return {};
    copyOpen_ = false;
    snapshotNeeded_ = false;
  }
  batchEndLsn_ = record.endLsn;
  batchUs_ = header.commitUs;
  batchDatabasePages_ = header.databasePages;
  return {};
}

void Applier::snapshotCame(const PageRecord& record) {
  const PageRecordHeader& header = record.header();
  snapshotPages_.store(header.last() ? 0 : header.databasePages, std::memory_order_relaxed);
  const uint32_t done = header.pageCount == 0 ? 0 : record.page(header.pageCount - 1);
  snapshotPagesDone_.store(header.last() ? 0 : done, std::memory_order_relaxed);
}

Result<void> Applier::appendPages(const PageRecord& record) {
  for (uint32_t i = 0; i < record.header().pageCount; ++i) {
    if (auto appended = writer_->append(record.page(i), record.image(i)); !appended) return appended;
  }
  return {};
}

Result<bool> Applier::begin(uint32_t pageBytes) {
  while (!stopping_.load(std::memory_order_acquire)) {
    auto begun = writer_->begin(pageBytes);
    if (begun && begun.value()) return true;
    if (!begun) {
      if (!begun.error().is("WALSHIP_ERR_SQLITE_PAGE_SIZE")) return begun;
      // A snapshot with pages of another size: only in a WAL of its own.
      auto checkpointed = index_->checkpoint();
      if (!checkpointed) return checkpointed.error();
      auto restarted = writer_->restart();
      if (!restarted) return restarted;
      if (restarted.value()) continue;
    }
    std::this_thread::sleep_for(kLockRetry);
  }
  return false;
}

Result<void> Applier::commitBatch() {
  if (writer_->begun()) {
    const uint32_t pages = writer_->appended();
    if (auto committed = writer_->commit(batchDatabasePages_); !committed) return committed;
    pages_.fetch_add(pages, std::memory_order_relaxed);
    commits_.fetch_add(1, std::memory_order_relaxed);
    walBytes_.store(walFrameOffset(writer_->frames() + 1, writer_->header().pageBytes()), std::memory_order_relaxed);
  }
  if (unsettled_) {
    if (auto settled = settle(batchEndLsn_, *unsettled_); !settled) return settled;
    unsettled_.reset();
  }
  transactions_.fetch_add(batchTransactions_, std::memory_order_relaxed);
  appliedUs_.store(batchUs_, std::memory_order_relaxed);
  applied(batchEndLsn_);
  batchEndLsn_ = 0;
  batchTransactions_ = 0;
  renewWal();
  return {};
}

// The database holds the log up to `lsn`, and nothing that the log does not.
Result<void> Applier::settle(uint64_t lsn, std::vector<uint64_t> files) {
  if (auto synced = index_->syncWal(); !synced) return synced;
  auto noted = sidecar_->update([&](SidecarState& state) {
    state.role = SidecarRole::standby;
    state.appliedLsn = lsn;
    state.closedCleanly = false;
    state.undone = std::move(files);
    return true;
  });
  if (noted) holdLog(lsn);
  return noted;
}

void Applier::dropBatch() {
  if (writer_->begun()) writer_->abandon();
  transactionOpen_ = false;
  copyOpen_ = false;
  snapshotPages_.store(0, std::memory_order_relaxed);
  snapshotPagesDone_.store(0, std::memory_order_relaxed);
  batchEndLsn_ = 0;
  batchTransactions_ = 0;
}

// A cut that came meanwhile is seen at the next round, and takes back what it cut off.
void Applier::applied(uint64_t lsn) {
  snapshotNeededSeen_.store(snapshotNeeded_);
  applied_.store(lsn, std::memory_order_release);
  engine_.pump().setApplied(lsn, cuts_);
}

// ---- checkpoints ----

// Begins the WAL anew when it is large, everything of it is in the database file, and no reader uses it. The
// checkpointer has done the most of it, or else, under a load that it does not keep up with, this thread does it.
void Applier::renewWal() {
  if (writer_->begun()) return;
  const uint64_t frameBytes = writer_->header().pageBytes() + kWalFrameHeaderBytes;
  const uint64_t bytes = writer_->frames() * frameBytes;
  if (bytes < settings_.checkpointBytes) {
    blockedSinceNs_.store(0, std::memory_order_relaxed);
    return;
  }
  const uint64_t nowNs = monotonicNs();
  const bool tooLarge = bytes >= 2 * settings_.checkpointBytes;
  uint64_t& next = tooLarge ? nextForcedRenewNs_ : nextRenewNs_;
  if (nowNs < next) return;
  const uint64_t rest = (writer_->frames() - std::min(index_->backfilled(), writer_->frames())) * frameBytes;
  if (rest > settings_.checkpointBytes / 8 && !tooLarge) {
    {
      const std::lock_guard lock(mutex_);
      checkpointDue_ = true;
    }
    moved_.notify_all();
    next = nowNs + kRenewRetryNs;
    return blocked(nowNs);
  }
  auto done = index_->checkpoint();
  // The checkpointer is at it: what it leaves is done here, or the WAL would grow and grow.
  while (done && done.value().busy && tooLarge && !stopping_.load()) {
    std::this_thread::sleep_for(kLockRetry);
    done = index_->checkpoint();
  }
  if (!done) return checkpointed(done.error());
  auto restarted = writer_->restart();
  if (!restarted) return checkpointed(restarted.error());
  if (!restarted.value()) {
    next = monotonicNs() + kRenewRetryNs;
    return blocked(nowNs);
  }
  blockedSinceNs_.store(0, std::memory_order_relaxed);
  walBytes_.store(0, std::memory_order_relaxed);
}

void Applier::blocked(uint64_t nowNs) {
  if (blockedSinceNs_.load(std::memory_order_relaxed) == 0) blockedSinceNs_.store(nowNs, std::memory_order_relaxed);
}

void Applier::checkpointer() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      moved_.wait_for(lock, std::chrono::milliseconds(settings_.checkpointMs),
                      [&] { return stopping_.load() || checkpointDue_; });
      checkpointDue_ = false;
      if (stopping_.load()) return;
    }
    checkpointed(checkpointOnce(*checkpointIndex_));
  }
}

Result<void> Applier::checkpointOnce(WalIndex& index) {
  const uint64_t generation = generation_.load(std::memory_order_acquire);
  const uint64_t lsn = applied_.load(std::memory_order_acquire);
  if (lsn == 0 || generation % 2 == 1) return {};
  auto outcome = index.checkpoint();
  if (!outcome) return outcome.error();
  if (outcome.value().busy) return {};
  checkpoints_.fetch_add(1, std::memory_order_relaxed);
  checkpointedNs_.store(monotonicNs(), std::memory_order_relaxed);
  // What readers keep out of the file must at least be durable in the WAL.
  if (outcome.value().backfilled < outcome.value().frames) {
    if (auto synced = index.syncWal(); !synced) return synced;
  }
  bool noted = false;
  auto stored = sidecar_->update([&](SidecarState& state) {
    noted = generation_.load(std::memory_order_acquire) == generation;
    if (!noted || state.appliedLsn == lsn) return false;
    state.appliedLsn = lsn;
    return true;
  });
  if (stored && noted) holdLog(lsn);
  return stored;
}

// The log keeps, for this node as a reader of it, what is not durably in the database's files: after a crash it is
// applied again.
void Applier::holdLog(uint64_t lsn) {
  if (auto held = engine_.readers().set(engine_.settings().nodeId, lsn); !held) problem(held.error());
}

}  // namespace walship

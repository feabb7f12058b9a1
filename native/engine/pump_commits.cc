// The pump's view of positions: what was sealed, what moved, what is committed.
#include "base/clock.h"
#include "engine/pump.h"

namespace walship {

namespace {
constexpr size_t kSealBytesMax = 512u << 10;  // per round, so that shipping begins before a burst is sealed whole
constexpr size_t kSamplesMax = 4096;
constexpr uint64_t kMs = 1'000'000;
}  // namespace

bool Pump::sealAppends() {
  if (!primary_ || !appender_.pending()) return false;
  const uint64_t begin = store_.receivedLsn();
  const SealedBatch batch = appender_.seal(kSealBytesMax);
  if (batch.bytes == 0) return false;
  counters_[kBatches].fetch_add(1, std::memory_order_relaxed);
  counters_[kAppendBytes].fetch_add(batch.bytes, std::memory_order_relaxed);
  counters_[kReceivedLsn].store(batch.endLsn, std::memory_order_release);
  if (commitSamples_.size() < kSamplesMax) commitSamples_.push_back({batch.endLsn, batch.openedNs});
  if (flushSamples_.size() < kSamplesMax) flushSamples_.push_back({batch.endLsn, batch.openedNs});
  freshness_.add(begin, batch.openedNs);
  evaluateCommit();
  return true;
}

// Own positions or those of the tree moved since the last look.
bool Pump::positionsChanged() {
  const bool appliedDue = appliedDue_.exchange(false, std::memory_order_seq_cst);
  const uint64_t flushed = store_.flushedLsn();
  const uint64_t applied = appliedLsn();
  const bool treeChanged = tree_.takeMoved() || tree_.version() != seenTreeVersion_;
  const bool due = flushed != seenFlushed_ || appliedDue;
  const bool changed = due || applied != seenApplied_ || treeChanged;
  const uint64_t received = store_.receivedLsn();
  if (observed_.load(std::memory_order_relaxed) && (changed || received != seenReceived_)) observersDue_ = true;
  seenReceived_ = received;
  if (changed) {
    seenFlushed_ = flushed;
    seenApplied_ = applied;
    seenTreeVersion_ = tree_.version();
    counters_[kFlushedLsn].store(flushed, std::memory_order_release);
    counters_[kAppliedLsn].store(applied, std::memory_order_release);
    showFreshness();
    const uint64_t nowNs = monotonicNs();
    while (!flushSamples_.empty() && flushSamples_.front().lsn <= flushed) {
      histograms_.flushNs.record(nowNs - flushSamples_.front().ns);
      flushSamples_.pop_front();
    }
    if (upstream_) upstream_->positionsMoved(due, treeChanged);
    if (primary_) evaluateCommit();
  }
  counters_[kReceivedLsn].store(received, std::memory_order_release);
  showEpochs();
  if (changed) noteMoved();
  return changed;
}

// Whatever is committed here is found by any later election, because only positions vouched for in this very epoch count:
// upstream.cc says why that is enough.
//
// The lease is looked at last: what moves `committed` has seen it hold. Should this thread be stopped between the two, no
// harm is done: what a synchronous rule commits is safe by promises alone, and under `async` the answer only comes late.
void Pump::evaluateCommit() {
  const uint64_t flushed = store_.flushedLsn();
  const Positions own{store_.receivedLsn(), flushed, appliedLsn()};
  const auto standbys = tree_.vouchedIn(reign_.epoch);
  if (observed_.load(std::memory_order_relaxed)) evaluateProven(own, standbys);
  const auto reached = committedBy(rule_, own, standbys);
  if (!reached || *reached <= committed_ || failed_ || !leaseHolds()) return;
  // Half an append is not committed: a new primary would cut it off.
  const uint64_t committed = appender_.wholeBelow(*reached);
  if (committed <= committed_) return;
  committed_ = committed;
  if (rule_.level != CommitLevel::async) protected_ = committed_;
  const uint64_t nowNs = monotonicNs();
  commitMovedNs_ = nowNs;
  counters_[kCommittedLsn].store(committed_, std::memory_order_seq_cst);
  while (!commitSamples_.empty() && commitSamples_.front().lsn <= committed_) {
    histograms_.commitNs.record(nowNs - commitSamples_.front().ns);
    commitSamples_.pop_front();
  }
  if (commitWaiters_.load(std::memory_order_seq_cst) > 0) {
    const std::lock_guard lock(commitMutex_);
    commitMoved_.notify_all();
  }
  noteMoved();
}

void Pump::evaluateProven(const Positions& own, const std::vector<StandbyPositions>& standbys) {
  if (failed_ || !leaseHolds()) return;
  const CommitLevel ruled = rule_.level;
  for (const CommitLevel level : {CommitLevel::received, CommitLevel::flushed, CommitLevel::applied}) {
    uint64_t reached = level == CommitLevel::received ? own.received : own.flushed;
    if (ruled != CommitLevel::async) {
      rule_.level = level;
      reached = committedBy(rule_, own, standbys).value_or(0);
    }
    auto& proven = proven_[static_cast<size_t>(level)];
    if (reached <= proven.load(std::memory_order_relaxed)) continue;
    proven.store(reached, std::memory_order_release);
    observersDue_ = true;
  }
  rule_.level = ruled;
}

uint64_t Pump::observe(std::function<void()> moved) {
  const std::lock_guard lock(observerMutex_);
  const uint64_t key = nextObserver_++;
  observers_[key] = std::move(moved);
  observed_.store(true, std::memory_order_release);
  post([this] {
    observersDue_ = true;
    if (primary_) evaluateCommit();
  });
  return key;
}

void Pump::unobserve(uint64_t key) {
  const std::lock_guard lock(observerMutex_);
  observers_.erase(key);
  observed_.store(!observers_.empty(), std::memory_order_release);
}

void Pump::tellObservers() {
  if (!std::exchange(observersDue_, false)) return;
  const std::lock_guard lock(observerMutex_);
  for (const auto& [key, moved] : observers_) moved();
}

CommitLevel Pump::awaitedLevel() const {
  if (!primary_) return heardAwaited_;
  const bool applied = rule_.level != CommitLevel::async && appliedExpectedNs_.load(std::memory_order_relaxed) != 0;
  return applied ? CommitLevel::applied : rule_.level;
}

SyncUrgency Pump::syncUrgency() const {
  if (primary_ && rule_.level >= CommitLevel::flushed && !rule_.ownDisk) return SyncUrgency::none;
  const CommitLevel level = awaitedLevel();
  if (level == CommitLevel::received) return SyncUrgency::usual;
  const bool leaf = !primary_ && downstreams_.empty();
  return leaf && level >= CommitLevel::flushed ? SyncUrgency::only : SyncUrgency::awaited;
}

bool Pump::leaseHolds() {
  if (leaseUntilNs_ == kNoLease || bootNs() < leaseUntilNs_) return true;
  if (!leaseLost_.exchange(true)) {
    event("lease-expired", settings_.nodeId,
          makeError("WALSHIP_ERR_LEASE", "this primary's lease has run out; it commits nothing until the lease is renewed"));
  }
  return false;
}

void Pump::setLease(uint64_t untilNs) {
  leaseUntilNs_ = untilNs;
  if (!primary_) return;
  if (leaseLost_ && leaseHolds()) {
    leaseLost_ = false;
    event("lease-renewed", settings_.nodeId, {});
  }
  evaluateCommit();
}

void Pump::watchRule(uint64_t nowNs) {
  const uint64_t end = store_.receivedLsn();
  if (committed_ >= end) commitMovedNs_ = nowNs;
  const bool failing = elapsedNs(commitMovedNs_, nowNs) > uint64_t{settings_.ruleMs} * kMs;
  if (failing == ruleFailing_) return;
  ruleFailing_ = failing;
  const std::string needed =
      !leaseHolds() ? "the lease has run out"
      : rule_.level == CommitLevel::async
          ? "this node's own disk has not taken them"
          : "the rule needs " + std::to_string(rule_.count) + " standby(s), " +
                std::to_string(tree_.vouchedIn(reign_.epoch).size()) + " of the " +
                std::to_string(tree_.nodes().size()) + " connected have reached this epoch";
  const Error why = failing ? makeError("WALSHIP_ERR_COMMIT_RULE", "commits wait: " + needed + "; LSN " + std::to_string(end) +
                                                                       " is appended, " + std::to_string(committed_) +
                                                                       " committed")
                            : Error{};
  event(failing ? "rule-failing" : "rule-met", settings_.nodeId, why);
}

}  // namespace walship

// Who this node follows, and what it is: sessions come and go, promotion, demotion, promises.
#include "base/clock.h"
#include "engine/pump.h"

namespace walship {

// ---- sessions ----

void Pump::pageLoaded(uint64_t page, const Error* error) {
  for (auto& [id, session] : downstreams_) session->onPage(page, error);
}

void Pump::answerPages(const PageQuery& query, std::function<void(const PageReply&)> done) {
  hooks_.inspect(query, [this, done = std::move(done)](PageReply reply) {
    post([done, reply = std::move(reply)] { done(reply); });
  });
}

void Pump::askPages(const std::string& node, const PageQuery& query, PageExchange::Answered answered) {
  if (upstream_ && upstream_->streaming() && upstream_->node() == node) return upstream_->askPages(query, std::move(answered));
  for (auto& [id, session] : downstreams_) {
    if (session->streaming() && session->node() == node) return session->askPages(query, std::move(answered));
  }
  answered(makeError("WALSHIP_ERR_NODE", "no link to '" + node + "' is up"));
}

void Pump::showEpochs() {
  counters_[kEpoch].store(reign_.epoch, std::memory_order_relaxed);
  counters_[kLogEpoch].store(store_.epoch(), std::memory_order_relaxed);
  counters_[kPromisedEpoch].store(store_.record().promisedEpoch, std::memory_order_relaxed);
}

void Pump::heardFromUpstream(const Heartbeat& heartbeat) {
  WALSHIP_ASSERT(heartbeat.epoch >= reign_.epoch);  // whatever was heard was promised
  const bool newer = heartbeat.epoch > reign_.epoch;
  reign_ = {heartbeat.epoch, heartbeat.epochFirstLsn};
  showEpochs();
  if (newer) {
    newEvent({"epoch", upstream_->node(), "",
              "epoch " + std::to_string(reign_.epoch) + " began at LSN " + std::to_string(reign_.firstLsn),
              store_.receivedLsn()});
  }
  discardCommitted_ = false;  // the consent was for joining this upstream
  heardAwaited_ = heartbeat.awaited;
  const bool awaited = heardAwaited_ == CommitLevel::applied;
  const bool before = appliedAwaited_.exchange(awaited, std::memory_order_seq_cst);
  if (awaited && !before) observersDue_ = true;  // who gathers has to know it now
  upstreamTailLsn_ = heartbeat.tailLsn;
  if (heartbeat.echoNs != 0 && heartbeat.ageNs < heartbeat.echoNs) {
    freshness_.add(heartbeat.tailLsn, std::min(heartbeat.echoNs - heartbeat.ageNs, monotonicNs()));
    showFreshness();
  }
  // Known as committed is only what is also here.
  protected_ = std::max(protected_, std::min(heartbeat.protectedLsn, store_.receivedLsn()));
  const uint64_t known = std::min(heartbeat.committedLsn, store_.receivedLsn());
  if (known > committed_) {
    committed_ = known;
    counters_[kCommittedLsn].store(committed_, std::memory_order_release);
    noteMoved();
  }
}

void Pump::dropDownstreams(const std::string& why) {
  for (auto& [id, session] : downstreams_) session->end(makeError("WALSHIP_ERR_LINK_CLOSED", why));
  for (auto entry = downstreams_.begin(); entry != downstreams_.end(); entry = downstreams_.erase(entry)) {
    part(*entry->second);
  }
}

void Pump::beforeCut(const LogPosition& to) {
  // What an asynchronous rule had committed here may be lost; more only with an operator's consent.
  WALSHIP_ASSERT(to.lsn >= protected_ || discardCommitted_);
  prepareCut(to);
}

void Pump::prepareCut(const LogPosition& to) {
  dropDownstreams("the log here is being cut back to LSN " + std::to_string(to.lsn));
  {
    const std::lock_guard lock(appliedMutex_);
    applied_.store(std::min(applied_.load(std::memory_order_relaxed), to.lsn), std::memory_order_release);
    cuts_.fetch_add(1, std::memory_order_release);
  }
  freshness_.cutTo(to.lsn);
  committed_ = std::min(committed_, to.lsn);
  protected_ = std::min(protected_, to.lsn);
  counters_[kCommittedLsn].store(committed_, std::memory_order_release);
}

void Pump::finishCut(const LogPosition& from, const LogPosition& to, bool done, const std::string& why) {
  cuts_.fetch_add(1, std::memory_order_release);
  if (!done) return;
  EngineEvent cut{"log-cut", settings_.nodeId, "WALSHIP_ERR_DIVERGED",
                  "LSN " + std::to_string(to.lsn) + " to " + std::to_string(from.lsn) +
                      " " + why +
                      "; set aside in a diverged-… file of the log directory",
                  to.lsn};
  newEvent(std::move(cut));
}

void Pump::afterCut(const LogPosition& from, const LogPosition& to, bool done) {
  finishCut(from, to, done, "diverged from the upstream's log");
}

// ---- roles ----

// Half an append, whose other half its primary has taken with it: nobody was told that it is committed.
Result<void> Pump::cutUnfinished() {
  const auto whole = store_.wholeTail();
  if (!whole) return whole.error();
  const LogPosition from = store_.received();
  if (whole.value().lsn == from.lsn) return {};
  prepareCut(whole.value());
  auto cut = store_.cut(whole.value());
  finishCut(from, whole.value(), cut.ok(), "are the beginning of an append whose end never came");
  return cut;
}

Result<uint64_t> Pump::promote(uint64_t epoch, uint64_t leaseUntilNs) {
  if (failed_) return makeError("WALSHIP_ERR_FAILED", "the engine's storage has failed; it can't be primary");
  if (primary_) return makeError("WALSHIP_ERR_IS_PRIMARY", "this node is the primary already");
  // An epoch that this node has only promised may be its own; one that it has heard of is another's.
  const uint64_t promised = store_.record().promisedEpoch;
  if (epoch == 0) epoch = promised + 1;
  if (epoch < promised || epoch <= reign_.epoch) {
    return makeError("WALSHIP_ERR_EPOCH", "epoch " + std::to_string(epoch) + " is not newer than epoch " +
                                              std::to_string(promised) + " that this node knows");
  }
  dropUpstream(makeError("WALSHIP_ERR_LINK_CLOSED", "this node is being promoted"));
  if (auto cut = cutUnfinished(); !cut) return cut.error();
  NodeRecord record = store_.record();
  record.history.push_back({epoch, store_.received().lsn});
  record.promisedEpoch = epoch;
  record.protectedLsn = protected_;
  if (auto stored = store_.storeRecord(std::move(record)); !stored) return stored.error();
  // A lease of an earlier reign is not this one's.
  leaseUntilNs_ = leaseUntilNs == kNoLease && leaseUntilNs_ != kNoLease ? kLeaseOver : leaseUntilNs;
  leaseLost_ = false;
  discardCommitted_ = false;
  appender_.start(epoch);
  primary_ = true;
  for (auto& proven : proven_) proven.store(0, std::memory_order_release);
  commitMovedNs_ = monotonicNs();
  freshness_.add(store_.receivedLsn(), commitMovedNs_);
  reign_ = store_.record().history.back();
  showEpochs();
  counters_[kIsPrimary].store(1);
  counters_[kEndLsn].store(store_.receivedLsn());
  event("promoted", settings_.nodeId, {});
  evaluateCommit();
  return epoch;
}

Result<uint64_t> Pump::demote() {
  if (!primary_) return store_.epoch();
  appender_.stop();
  primary_ = false;
  counters_[kIsPrimary].store(0);
  counters_[kStarved].store(0);
  commitSamples_.clear();
  flushSamples_.clear();
  event("demoted", settings_.nodeId, {});
  return store_.epoch();
}

// Whatever the upstream's link does at this moment, the answer is final:
// - what has landed and was not taken by poll() goes with the link; what is on its way finds no queue pair or socket;
// - a session in its hand-shake, and a link that is handed over later, meet the promise in UpstreamSession::checkEpoch
//   before they grant a page;
// - nodes below this one keep their sessions: they are told of this node's reign, which no older primary can move any
//   more, and what they vouch for reaches only an upstream that this node may follow.
Result<Promised> Pump::promise(uint64_t epoch) {
  NodeRecord record = store_.record();
  if (epoch < record.promisedEpoch) {
    return makeError("WALSHIP_ERR_EPOCH", "this node has already promised epoch " + std::to_string(record.promisedEpoch));
  }
  if (epoch > record.promisedEpoch) {
    if (primary_) static_cast<void>(demote());
    // The fence first: after the link is gone nothing can land any more.
    dropUpstream(makeError("WALSHIP_ERR_EPOCH", "this node promised epoch " + std::to_string(epoch)));
    record.promisedEpoch = epoch;
    record.protectedLsn = protected_;
    if (auto stored = store_.storeRecord(std::move(record)); !stored) return stored.error();
    showEpochs();
  }
  return Promised{store_.receivedLsn(), store_.epoch()};
}

void Pump::fail(const Error& error) {
  if (failed_) return;
  failed_ = true;
  appender_.fail(error);
  event("failed", settings_.nodeId, error);
  for (auto& [id, session] : downstreams_) session->end(error);
  dropUpstream(error);
  while (!parked_.empty()) unpark(parked_, parked_.begin()->first).reset();  // nobody is to think that this node is well
}

}  // namespace walship

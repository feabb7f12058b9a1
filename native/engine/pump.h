// The pump: the one thread that seals, ships, receives, acknowledges and evaluates the commit rule. It owns every link
// and session.
//
// It sleeps in epoll; `busy` never sleeps, `adaptive` polls for a while first. Other threads reach it with post() and
// wake(). A native thread that appends does a sleeping pump's work itself, with takeTurn(): to wake another thread takes
// longer than to ship what there is. So "on the pump" means: with turn_ held, which the pump's thread gives away only
// while it sleeps.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "engine/appender.h"
#include "engine/lease.h"
#include "engine/settings.h"
#include "engine/status.h"
#include "replication/downstream.h"
#include "replication/freshness.h"
#include "replication/parked.h"
#include "replication/upstream.h"

namespace walship {

// What a node's promise is worth: after it nothing of an older epoch can land here.
struct Promised {
  uint64_t lsn = 0;       // received
  uint64_t logEpoch = 0;  // the newest epoch with whose primary's log this node's is known to agree; compared before `lsn`
};

class Pump final : public SessionHost {
 public:
  struct Hooks {
    std::function<void()> notify;                    // tells JavaScript that there is news; called from the pump
    std::function<void(uint64_t page)> requestLoad;  // the loader
    // A link to the upstream is gone: to connect again, over this rail, or by the way that was first given (empty).
    std::function<void(const std::string& rail, bool soon)> reconnect;
    std::function<void(const std::string& node, uint64_t lsn)> keepFor;  // a downstream has come, or is gone
    // The inspector; `done` is called on its thread.
    std::function<void(const PageQuery&, std::function<void(PageReply)> done)> inspect;
  };
  // Error: WALSHIP_ERR_INTERNAL (no epoll).
  static Result<std::unique_ptr<Pump>> create(const EngineSettings& settings, Store& store, Counters& counters,
                                              Histograms& histograms);
  ~Pump();
  void start(Hooks hooks);
  void stop();  // ends every session and the thread

  Appender& appender() { return appender_; }

  // ---- any thread ----
  void wake();
  // In place of wake(), for a thread that has just appended and has nothing better to do: if the pump sleeps, what there
  // is to do is done here. The caller must hold nothing that an observer or a hook asks for.
  void takeTurn();
  void post(std::function<void()> command);
  void postLink(void (Pump::*adopt)(Established), Established established);
  // Runs `command` on the pump and waits for what it gives. Must not be called on the pump.
  Result<uint64_t> call(std::function<Result<uint64_t>()> command);
  void setApplied(uint64_t lsn);
  // For whoever applies what it reads from the log: `cuts()` was `cuts` when it began to read. false, and nothing is
  // said: the log was cut since, and what was applied may not be in it any more.
  bool setApplied(uint64_t lsn, uint64_t cuts);
  // The same of what no commit waits for: it is told with the next news, or after half a heartbeat.
  bool noteApplied(uint64_t lsn, uint64_t cuts);
  // Primary: a commit waits until it is applied, whatever the rule says; others are likely to follow.
  void expectApplied();
  // Standby: some commit waits for what is applied here or below, as far as the upstream has said.
  bool appliedAwaited() const { return appliedAwaited_.load(std::memory_order_acquire); }
  // What the readers of what is applied here may still have to see.
  void setHorizon(const Horizon& horizon);
  // The same of this node and all below it, as it was a heartbeat ago at most.
  Horizon shownHorizon() const { return {horizonRows_.load(), horizonCatalog_.load()}; }
  // This primary's lease is over: nothing is committed until it is renewed.
  bool leaseLost() const { return leaseLost_.load(std::memory_order_acquire); }
  // How often the log was cut back: odd while it is being cut.
  uint64_t cuts() const { return cuts_.load(std::memory_order_acquire); }
  void storageProblem(const Error* error);  // nullptr: over
  StatusSnapshot snapshot();
  std::vector<EngineEvent> drainEvents();
  // Blocks until `lsn` is committed; false after `timeoutMs`. For native callers.
  bool waitCommitted(uint64_t lsn, uint32_t timeoutMs);
  void newEvent(EngineEvent event);
  // Called on the pump whenever a position of this node, or what is proven at a level, may have moved. Short, and never
  // blocks. Gives a key for unobserve(), after which it is not running and not called any more.
  uint64_t observe(std::function<void()> moved);
  void unobserve(uint64_t key);
  // Primary: how far the commit rule, held to this level instead of its own, has been met in this reign; never falls
  // back. Without standbys in the rule it is what this node's own disk has.
  uint64_t proven(CommitLevel level) const { return proven_[static_cast<size_t>(level)].load(std::memory_order_acquire); }
  // Positions of the nodes heard of, for retention.
  std::map<std::string, uint64_t> readers();

  // ---- on the pump ----
  void adoptDownstream(Established established);
  void adoptUpstream(Established established);
  void dropUpstream(const Error& why);  // the session and every spare link
  // `order`: rails by preference, for when the session's own link is gone; `carry`: those that are to carry the session,
  // as soon as each has a spare link; several: striped. `why` is told with the move.
  void steer(std::vector<std::string> order, std::vector<std::string> carry, std::string why);
  void railProblem(const std::string& rail, const Error& error);
  void setRailEnds(std::vector<RailEnd> ends) { railEnds_ = std::move(ends); }  // this node's own, told to downstreams
  void forgetRail(const std::string& rail);
  // `leaseUntilNs` (boot clock): nothing is committed after it. kNoLease: no lease is asked for, unless one was set
  // before: then nothing is committed until setLease() says what holds now.
  Result<uint64_t> promote(uint64_t epoch, uint64_t leaseUntilNs = kNoLease);
  Result<uint64_t> demote();
  Result<Promised> promise(uint64_t epoch);
  // Until when this node may commit as primary (boot clock), or kNoLease.
  void setLease(uint64_t untilNs);
  // A cut below what was committed synchronously is allowed until the next upstream has accepted this node.
  void setDiscardCommitted(bool on) { discardCommitted_ = on; }
  // Appends may be taken again: says so to those who wait.
  void releaseWriters();
  void pageLoaded(uint64_t page, const Error* error);
  // Asks the node at the other end of a link. WALSHIP_ERR_NODE: none of that name is connected; else as PageExchange::ask().
  void askPages(const std::string& node, const PageQuery& query, PageExchange::Answered answered);
  void fail(const Error& error);
  void setCommitRule(CommitRule rule) {
    rule_ = std::move(rule);
    if (primary_) evaluateCommit();
  }

  // ---- SessionHost ----
  Store& store() override { return store_; }
  Tree& tree() override { return tree_; }
  const SessionSettings& settings() const override { return settings_.session; }
  uint64_t nodeKey() const override { return nodeKey_; }
  const std::string& nodeId() const override { return settings_.nodeId; }
  bool isPrimary() const override { return primary_; }
  EpochStart reign() const override { return reign_; }
  uint64_t committedLsn() const override { return committed_; }
  uint64_t protectedLsn() const override { return protected_; }
  bool discardCommitted() const override { return discardCommitted_; }
  uint64_t appliedLsn() const override;
  Horizon horizon() const override;
  CommitLevel awaitedLevel() const override;
  void requestLoad(uint64_t page) override { hooks_.requestLoad(page); }
  void answerPages(const PageQuery& query, std::function<void(const PageReply&)> done) override;
  void upstreamSpoke(uint64_t nowNs) override { counters_[kUpstreamHeardNs].store(nowNs, std::memory_order_relaxed); }
  void heardRails(Rails rails) override { upstreamRails_ = std::move(rails); }
  void heardFromUpstream(const Heartbeat& heartbeat) override;
  uint64_t ageNs(uint64_t nowNs) const override;
  void keepFor(const std::string& node, uint64_t lsn) override { hooks_.keepFor(node, lsn); }
  void dropDownstreams(const std::string& why) override;
  void beforeCut(const LogPosition& to) override;
  void afterCut(const LogPosition& from, const LogPosition& to, bool done) override;
  void event(const char* type, const std::string& node, const Error& detail) override;

 private:
  static constexpr uint64_t kUpstreamId = 1;  // among the events of epoll; 0 is the eventfd
  struct Sample {
    uint64_t lsn;
    uint64_t ns;
  };

  Pump(const EngineSettings& settings, Store& store, Counters& counters, Histograms& histograms, Fd epoll, Fd wakeFd);
  void run();
  bool round(uint64_t nowNs);
  bool runCommands();
  bool sealAppends();
  bool positionsChanged();
  void evaluateCommit();
  SyncUrgency syncUrgency() const;
  bool leaseHolds();
  void showEpochs();
  void showFreshness();
  Result<void> cutUnfinished();
  void prepareCut(const LogPosition& to);
  void finishCut(const LogPosition& from, const LogPosition& to, bool done, const std::string& why);
  void evaluateProven(const Positions& own, const std::vector<StandbyPositions>& standbys);
  void tellObservers();
  void reap();
  void part(const DownstreamSession& session);
  // Rails (pump_rails.cc).
  using ParkedLinks = std::map<uint64_t, std::unique_ptr<ParkedLink>>;
  ParkedSettings parkedSettings() const { return {settings_.session.probeMs, settings_.session.linkTimeoutMs}; }
  std::unique_ptr<ParkedLink> unpark(ParkedLinks& from, uint64_t id);
  void beginUpstream(std::vector<std::unique_ptr<ParkedLink>> lanes);
  void endUpstream();
  void upstreamEnded();
  bool goOnOverSpare(const std::vector<std::string>& failed);
  // As the link comes back: tells of it if it is over other rails than the last one.
  void goOnAfterGap();
  void moveIfDue();
  void dropSpares();
  bool pollParked();
  void stepParked(uint64_t nowNs);
  void reapSpares();
  void admit();
  void beginDownstream(const std::vector<uint64_t>& lanes);
  void watchSilence(uint64_t nowNs);
  void showRails(uint64_t nowNs, StatusSnapshot& snapshot) const;
  void tick(uint64_t nowNs);
  void watchStalls(uint64_t nowNs);
  void watchRule(uint64_t nowNs);
  void renewSnapshot(uint64_t nowNs);
  void noteMoved();
  void notify(uint64_t nowNs, bool idle);
  bool armLinks();
  void sleep(uint64_t nowNs, std::unique_lock<std::mutex>& turn);
  void watch(const Link& link, uint64_t id);
  void unwatch(const Link& link);
  void takeEvents();
  void heed(uint64_t eventId);
  uint64_t lagMs(uint64_t lsn, uint64_t nowNs) const;

  const EngineSettings settings_;
  Store& store_;
  Counters& counters_;
  Histograms& histograms_;
  const uint64_t nodeKey_;
  Hooks hooks_;
  Fd epoll_;
  Fd wakeFd_;
  Appender appender_;
  CommitRule rule_;

  Tree tree_;
  uint64_t nextSession_ = kUpstreamId + 1;
  std::map<uint64_t, std::unique_ptr<DownstreamSession>> downstreams_;
  std::unique_ptr<UpstreamSession> upstream_;
  ParkedLinks parked_;  // that have come, and carry no session (yet)
  ParkedLinks spares_;  // to the upstream; at most one for each rail
  std::vector<std::string> railsUsed_;   // of the upstream session
  std::vector<std::string> railOrder_;
  std::vector<std::string> railsWanted_;
  std::string railsWhy_;
  std::map<std::string, Error> railProblems_;  // of those that are down
  std::map<std::string, uint64_t> railFailures_;  // how often one failed that carried the session
  std::vector<RailEnd> railEnds_;
  Rails upstreamRails_;                        // as it told them
  uint64_t spareDueNs_ = 0;                    // not before: the session before was refused
  uint32_t sparePauseMs_ = 0;
  bool primary_ = false;
  bool failed_ = false;
  EpochStart reign_;  // of the primary heard of last, which this node may be itself; only grows
  uint64_t leaseUntilNs_ = kNoLease;
  std::atomic<bool> leaseLost_{false};  // found to be over, and told
  bool discardCommitted_ = false;
  CommitLevel heardAwaited_ = CommitLevel::async;
  uint64_t upstreamTailLsn_ = 0;
  uint64_t upstreamSinceNs_ = 0;
  uint64_t committed_ = 0;
  uint64_t protected_ = 0;
  Horizon ownHorizon_;

  uint64_t seenReceived_ = 0;
  uint64_t seenFlushed_ = 0;
  uint64_t seenApplied_ = 0;
  uint64_t seenTreeVersion_ = 0;
  std::deque<Sample> commitSamples_;  // (end LSN, when appended) not yet committed
  std::deque<Sample> flushSamples_;
  Freshness freshness_;               // what lag in time is read from
  uint64_t commitMovedNs_ = 0;
  bool ruleFailing_ = false;

  uint64_t lastBusyNs_ = 0;
  uint32_t busyRounds_ = 0;
  uint64_t lastTickNs_ = 0;
  uint64_t lastNotifyNs_ = 0;
  std::atomic<bool> notifyDue_{false};  // set by whoever has news for JavaScript

  std::mutex turn_;  // owns all that is not atomic and has no other mutex
  std::atomic<bool> sleeping_{false};
  std::atomic<uint64_t> applied_{0};
  std::atomic<bool> appliedDue_{false};  // set, not only noted
  std::atomic<uint64_t> appliedExpectedNs_{0};  // when it was last; 0: not of late
  std::atomic<bool> appliedAwaited_{false};
  std::mutex appliedMutex_;         // so that no position from before a cut is said after it
  std::atomic<uint64_t> cuts_{0};
  std::atomic<uint64_t> horizonRows_{0};
  std::atomic<uint64_t> horizonCatalog_{0};
  std::atomic<bool> stopping_{false};
  std::array<std::atomic<uint64_t>, 4> proven_{};  // by CommitLevel
  std::mutex observerMutex_;
  std::map<uint64_t, std::function<void()>> observers_;
  std::atomic<bool> observed_{false};
  bool observersDue_ = false;
  uint64_t nextObserver_ = 1;
  std::mutex commandMutex_;
  std::deque<std::function<void()>> commands_;
  std::atomic<bool> commandsPending_{false};

  std::mutex statusMutex_;
  StatusSnapshot snapshot_;
  std::string storageProblem_;
  std::vector<EngineEvent> events_;

  std::mutex commitMutex_;
  std::condition_variable commitMoved_;
  std::atomic<uint32_t> commitWaiters_{0};
  std::thread thread_;
};

}  // namespace walship

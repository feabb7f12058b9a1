#include "engine/pump.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <future>

#include "base/checksum.h"
#include "base/clock.h"

namespace walship {

namespace {
constexpr uint64_t kWakeId = 0;
constexpr uint64_t kUpstreamId = 1;
constexpr size_t kSealBytesMax = 512u << 10;  // per round, so that shipping begins before a burst is sealed whole
constexpr uint32_t kBusyRoundsPerLook = 4;
constexpr size_t kSamplesMax = 4096;
constexpr size_t kEventsMax = 1024;
constexpr uint64_t kMs = 1'000'000;
// A link that lived this long was a good one: the next try is made soon.
constexpr uint64_t kGoodLinkNs = 1'000 * kMs;
}  // namespace

Result<std::unique_ptr<Pump>> Pump::create(const EngineSettings& settings, Store& store, Counters& counters,
                                           Histograms& histograms) {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  Fd wake(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!epoll.valid() || !wake.valid()) return systemError("WALSHIP_ERR_INTERNAL", "cannot make epoll or eventfd", errno);
  epoll_event entry{};
  entry.events = EPOLLIN;
  entry.data.u64 = kWakeId;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &entry) != 0) {
    return systemError("WALSHIP_ERR_INTERNAL", "cannot watch the eventfd", errno);
  }
  return std::unique_ptr<Pump>(new Pump(settings, store, counters, histograms, std::move(epoll), std::move(wake)));
}

Pump::Pump(const EngineSettings& settings, Store& store, Counters& counters, Histograms& histograms, Fd epoll, Fd wakeFd)
    : settings_(settings),
      store_(store),
      counters_(counters),
      histograms_(histograms),
      nodeKey_(keyOf(settings.nodeId)),
      epoll_(std::move(epoll)),
      wakeFd_(std::move(wakeFd)),
      appender_(store, settings.frameBytesMax, [this] { wake(); }),
      rule_(settings.commitRule),
      heardEpoch_(std::max(store.epoch(), store.record().promisedEpoch)),
      committed_(std::min(store.record().protectedLsn, store.receivedLsn())),
      protected_(committed_) {}

Pump::~Pump() { stop(); }

void Pump::start(Hooks hooks) {
  hooks_ = std::move(hooks);
  // Whoever has just opened the engine must not read zeros until the first round.
  counters_[kReceivedLsn].store(store_.receivedLsn());
  counters_[kFlushedLsn].store(store_.flushedLsn());
  counters_[kAppliedLsn].store(appliedLsn());
  counters_[kCommittedLsn].store(committed_);
  counters_[kEndLsn].store(store_.receivedLsn());
  counters_[kEpoch].store(epoch());
  thread_ = std::thread([this] { run(); });
}

void Pump::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true);
  wake();
  thread_.join();
}

// ---- reached from other threads ----

void Pump::wake() {
  if (!sleeping_.exchange(false, std::memory_order_seq_cst)) return;
  const uint64_t one = 1;
  WALSHIP_ASSERT(::write(wakeFd_.get(), &one, sizeof one) == sizeof one);
}

void Pump::post(std::function<void()> command) {
  {
    const std::lock_guard lock(commandMutex_);
    commands_.push_back(std::move(command));
  }
  commandsPending_.store(true, std::memory_order_seq_cst);
  wake();
}

Result<uint64_t> Pump::call(std::function<Result<uint64_t>()> command) {
  std::promise<Result<uint64_t>> promise;
  auto outcome = promise.get_future();
  post([&] { promise.set_value(command()); });
  return outcome.get();
}

void Pump::setApplied(uint64_t lsn) {
  {
    const std::lock_guard lock(appliedMutex_);
    applied_.store(lsn, std::memory_order_release);
  }
  wake();
}

bool Pump::setApplied(uint64_t lsn, uint64_t cuts) {
  {
    const std::lock_guard lock(appliedMutex_);
    if (cuts_.load(std::memory_order_relaxed) != cuts) return false;
    applied_.store(lsn, std::memory_order_release);
  }
  wake();
  return true;
}

uint64_t Pump::appliedLsn() const {
  const uint64_t flushed = store_.flushedLsn();
  return settings_.appliedByHand ? std::min(applied_.load(std::memory_order_acquire), flushed) : flushed;
}

void Pump::storageProblem(const Error* error) {
  {
    const std::lock_guard lock(statusMutex_);
    storageProblem_ = error != nullptr ? error->message : "";
  }
  const Error none;
  post([this, detail = error != nullptr ? *error : none, over = error == nullptr] {
    event(over ? "storage-ok" : "storage-problem", settings_.nodeId, detail);
  });
}

StatusSnapshot Pump::snapshot() {
  const std::lock_guard lock(statusMutex_);
  StatusSnapshot copy = snapshot_;
  copy.storageProblem = storageProblem_;
  return copy;
}

std::vector<EngineEvent> Pump::drainEvents() {
  const std::lock_guard lock(statusMutex_);
  return std::exchange(events_, {});
}

bool Pump::waitCommitted(uint64_t lsn, uint32_t timeoutMs) {
  const auto reached = [&] { return counters_[kCommittedLsn].load(std::memory_order_acquire) >= lsn; };
  if (reached()) return true;
  commitWaiters_.fetch_add(1, std::memory_order_seq_cst);
  std::unique_lock lock(commitMutex_);
  const bool done = commitMoved_.wait_for(lock, std::chrono::milliseconds(timeoutMs), reached);
  commitWaiters_.fetch_sub(1, std::memory_order_seq_cst);
  return done;
}

std::map<std::string, uint64_t> Pump::readers() {
  const std::lock_guard lock(statusMutex_);
  std::map<std::string, uint64_t> positions;
  for (const NodeStatus& node : snapshot_.nodes) {
    if (node.parent == settings_.nodeId) positions[node.node] = node.positions.flushed;
  }
  return positions;
}

// ---- the thread ----

void Pump::run() {
  while (!stopping_.load(std::memory_order_acquire)) {
    const uint64_t nowNs = monotonicNs();
    const bool busy = round(nowNs);
    if (busy) {
      lastBusyNs_ = nowNs;
      // However busy, links that only events announce must be heard.
      if (++busyRounds_ % kBusyRoundsPerLook == 0) takeEvents(0);
      continue;
    }
    const bool spin = settings_.completion == CompletionMode::busy ||
                      (settings_.completion == CompletionMode::adaptive &&
                       nowNs - lastBusyNs_ < uint64_t{settings_.spinUs} * 1000);
    if (spin) {
      takeEvents(0);
    } else {
      sleep(nowNs);
    }
  }
  runCommands();  // so that nobody waits in call() for ever
  appender_.stop();
  store_.passToFlusher();
  const Error closing = makeError("WALSHIP_ERR_CLOSED", "the engine is closing");
  for (auto& [id, session] : downstreams_) session->end(closing);
  if (upstream_) upstream_->end(closing);
  upstream_.reset();
  downstreams_.clear();
}

bool Pump::round(uint64_t nowNs) {
  counters_[kPumpRounds].fetch_add(1, std::memory_order_relaxed);
  bool busy = runCommands();
  busy |= sealAppends();
  if (upstream_ && (upstream_->polledBusy || upstream_->link().polls())) {
    upstream_->polledBusy = upstream_->link().poll();
    busy |= upstream_->polledBusy;
  }
  for (auto& [id, session] : downstreams_) {
    if (!session->polledBusy && !session->link().polls()) continue;
    session->polledBusy = session->link().poll();
    busy |= session->polledBusy;
  }
  busy |= positionsChanged();
  for (auto& [id, session] : downstreams_) {
    busy |= session->step(nowNs);
    session->link().flush();
  }
  if (upstream_) {
    busy |= upstream_->step(nowNs);
    if (upstream_) upstream_->link().flush();
  }
  store_.passToFlusher();
  tellObservers();
  reap();
  if (nowNs - lastTickNs_ >= uint64_t{settings_.session.heartbeatMs} * kMs / 2) {
    lastTickNs_ = nowNs;
    tick(nowNs);
  }
  notify(nowNs, !busy);
  return busy;
}

bool Pump::runCommands() {
  if (!commandsPending_.exchange(false, std::memory_order_acq_rel)) return false;
  std::deque<std::function<void()>> commands;
  {
    const std::lock_guard lock(commandMutex_);
    commands.swap(commands_);
  }
  for (auto& command : commands) command();
  return true;
}

bool Pump::sealAppends() {
  if (!primary_ || !appender_.pending()) return false;
  const SealedBatch batch = appender_.seal(kSealBytesMax);
  if (batch.bytes == 0) return false;
  counters_[kBatches].fetch_add(1, std::memory_order_relaxed);
  counters_[kAppendBytes].fetch_add(batch.bytes, std::memory_order_relaxed);
  counters_[kReceivedLsn].store(batch.endLsn, std::memory_order_release);
  if (commitSamples_.size() < kSamplesMax) commitSamples_.push_back({batch.endLsn, batch.openedNs});
  if (flushSamples_.size() < kSamplesMax) flushSamples_.push_back({batch.endLsn, batch.openedNs});
  if (madeSamples_.empty() || batch.openedNs - madeSamples_.back().ns >= kMs) {
    if (madeSamples_.size() >= kSamplesMax) {
      // Keep every other one: old lag is read more coarsely.
      std::deque<Sample> thinned;
      for (size_t i = 0; i < madeSamples_.size(); i += 2) thinned.push_back(madeSamples_[i]);
      madeSamples_.swap(thinned);
    }
    madeSamples_.push_back({batch.endLsn, batch.openedNs});
  }
  evaluateCommit();
  return true;
}

// Own positions or those of the tree moved since the last look.
bool Pump::positionsChanged() {
  const uint64_t flushed = store_.flushedLsn();
  const uint64_t applied = appliedLsn();
  const bool treeChanged = tree_.takeMoved() || tree_.version() != seenTreeVersion_;
  const bool changed = flushed != seenFlushed_ || applied != seenApplied_ || treeChanged;
  const uint64_t received = store_.receivedLsn();
  if (observed_.load(std::memory_order_relaxed) && (changed || received != seenReceived_)) observersDue_ = true;
  seenReceived_ = received;
  if (changed) {
    seenFlushed_ = flushed;
    seenApplied_ = applied;
    seenTreeVersion_ = tree_.version();
    counters_[kFlushedLsn].store(flushed, std::memory_order_release);
    counters_[kAppliedLsn].store(applied, std::memory_order_release);
    const uint64_t nowNs = monotonicNs();
    while (!flushSamples_.empty() && flushSamples_.front().lsn <= flushed) {
      histograms_.flushNs.record(nowNs - flushSamples_.front().ns);
      flushSamples_.pop_front();
    }
    if (upstream_) upstream_->positionsMoved(treeChanged);
    if (primary_) evaluateCommit();
    notifyDue_ = true;
  }
  counters_[kReceivedLsn].store(received, std::memory_order_release);
  return changed;
}

void Pump::evaluateCommit() {
  const uint64_t flushed = store_.flushedLsn();
  const Positions own{store_.receivedLsn(), flushed, appliedLsn()};
  const auto standbys = tree_.positions();
  if (observed_.load(std::memory_order_relaxed)) evaluateProven(own, standbys);
  const auto committed = committedBy(rule_, own, standbys);
  if (!committed || *committed <= committed_ || failed_) return;
  committed_ = *committed;
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
  notifyDue_ = true;
}

void Pump::evaluateProven(const Positions& own, const std::vector<StandbyPositions>& standbys) {
  if (failed_) return;
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

void Pump::reap() {
  const size_t before = downstreams_.size();
  for (auto entry = downstreams_.begin(); entry != downstreams_.end();) {
    if (!entry->second->ended()) {
      ++entry;
      continue;
    }
    part(*entry->second);
    entry = downstreams_.erase(entry);
  }
  // So that nobody takes an older position of theirs from it.
  if (downstreams_.size() != before) renewSnapshot(monotonicNs());
  if (upstream_ && upstream_->ended()) dropUpstream(*upstream_->ended());
}

void Pump::part(const DownstreamSession& session) {
  event("downstream-down", session.node(), *session.ended());
  unwatch(session.link());
  // What it said last: the log is kept for it from there on.
  const auto found = tree_.nodes().find(session.nodeKey());
  if (found != tree_.nodes().end() && found->second.via == &session) {
    hooks_.parted(session.node(), found->second.positions.flushed);
  }
}

// JavaScript is woken at once when it is quiet, and at most once per window under load.
void Pump::notify(uint64_t nowNs, bool idle) {
  if (!notifyDue_.load(std::memory_order_relaxed)) return;
  if (!idle && nowNs - lastNotifyNs_ < uint64_t{settings_.wakeWindowUs} * 1000) return;
  notifyDue_ = false;
  lastNotifyNs_ = nowNs;
  counters_[kJsWakes].fetch_add(1, std::memory_order_relaxed);
  hooks_.notify();
}

bool Pump::armLinks() {
  if (upstream_ && !upstream_->link().arm()) {
    upstream_->polledBusy = true;
    return false;
  }
  for (auto& [id, session] : downstreams_) {
    if (session->link().arm()) continue;
    session->polledBusy = true;
    return false;
  }
  return true;
}

void Pump::sleep(uint64_t nowNs) {
  if (!armLinks()) return;
  sleeping_.store(true, std::memory_order_seq_cst);
  const bool news = commandsPending_.load(std::memory_order_seq_cst) || (primary_ && appender_.pending()) ||
                    store_.flushedLsn() != seenFlushed_ || appliedLsn() != seenApplied_ ||
                    stopping_.load(std::memory_order_seq_cst);
  if (!news) {
    counters_[kPumpSleeps].fetch_add(1, std::memory_order_relaxed);
    uint64_t wakeNs = lastTickNs_ + uint64_t{settings_.session.heartbeatMs} * kMs / 2;
    if (upstream_ && upstream_->streaming()) wakeNs = std::min(wakeNs, upstream_->ackDueNs());
    takeEvents(wakeNs > nowNs ? static_cast<int>((wakeNs - nowNs) / kMs + 1) : 0);
  }
  sleeping_.store(false, std::memory_order_seq_cst);
}

void Pump::watch(const Link& link, uint64_t id) {
  for (const int fd : link.fds()) {
    epoll_event entry{};
    entry.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    entry.data.u64 = id;
    WALSHIP_ASSERT(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &entry) == 0);
  }
}

// Closing is not enough: a link may hold a copy of a descriptor that stays open elsewhere.
void Pump::unwatch(const Link& link) {
  for (const int fd : link.fds()) WALSHIP_ASSERT(::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr) == 0);
}

void Pump::takeEvents(int timeoutMs) {
  epoll_event events[32];
  const int count = ::epoll_wait(epoll_.get(), events, 32, timeoutMs);
  for (int i = 0; i < count; ++i) {
    const uint64_t id = events[i].data.u64;
    if (id == kWakeId) {
      uint64_t ignored;
      while (::read(wakeFd_.get(), &ignored, sizeof ignored) > 0) {
      }
    } else if (id == kUpstreamId) {
      if (upstream_) upstream_->polledBusy = true;
    } else if (const auto found = downstreams_.find(id); found != downstreams_.end()) {
      found->second->polledBusy = true;
    }
  }
}

// ---- sessions ----

void Pump::adoptDownstream(Established established) {
  if (failed_ || stopping_.load()) return;
  // A node that connects again has given up its old link, even if this side has not noticed yet.
  for (auto& [id, session] : downstreams_) {
    if (session->node() == established.node) {
      session->end(makeError("WALSHIP_ERR_LINK_CLOSED", "'" + established.node + "' has connected anew"));
    }
  }
  reap();
  const uint64_t id = nextSession_++;
  watch(*established.link, id);
  auto session = std::make_unique<DownstreamSession>(*this, std::move(established.link), established.node);
  session->polledBusy = true;
  event("downstream-up", established.node, {});
  downstreams_[id] = std::move(session);
}

void Pump::adoptUpstream(Established established) {
  if (failed_ || primary_ || stopping_.load()) return;
  if (upstream_) unwatch(upstream_->link());
  upstream_.reset();
  watch(*established.link, kUpstreamId);
  upstream_ = std::make_unique<UpstreamSession>(*this, std::move(established.link), established.node);
  upstream_->polledBusy = true;
  upstreamSinceNs_ = monotonicNs();
}

void Pump::dropUpstream(const Error& why) {
  if (!upstream_) return;
  const std::string node = upstream_->node();
  const Error reason = why;  // it may be the session's own
  unwatch(upstream_->link());
  upstream_.reset();
  event("upstream-down", node, reason);
  hooks_.reconnect(monotonicNs() - upstreamSinceNs_ > kGoodLinkNs);
}

void Pump::pageLoaded(uint64_t page, const Error* error) {
  for (auto& [id, session] : downstreams_) session->onPage(page, error);
}

uint64_t Pump::epoch() const { return primary_ ? store_.epoch() : heardEpoch_; }

void Pump::heardFromUpstream(const Heartbeat& heartbeat) {
  heardEpoch_ = std::max(heardEpoch_, heartbeat.epoch);
  heardAwaited_ = heartbeat.awaited;
  upstreamTailLsn_ = heartbeat.tailLsn;
  upstreamHeardNs_ = monotonicNs();
  // Known as committed is only what is also here.
  protected_ = std::max(protected_, std::min(heartbeat.protectedLsn, store_.receivedLsn()));
  const uint64_t known = std::min(heartbeat.committedLsn, store_.receivedLsn());
  if (known > committed_) {
    committed_ = known;
    counters_[kCommittedLsn].store(committed_, std::memory_order_release);
    notifyDue_ = true;
  }
}

void Pump::beforeCut(const LogPosition& from, const LogPosition& to) {
  for (auto& [id, session] : downstreams_) {
    session->end(makeError("WALSHIP_ERR_LINK_CLOSED", "the log here is being cut back to LSN " + std::to_string(to.lsn)));
  }
  for (auto entry = downstreams_.begin(); entry != downstreams_.end(); entry = downstreams_.erase(entry)) {
    part(*entry->second);
  }
  {
    const std::lock_guard lock(appliedMutex_);
    applied_.store(std::min(applied_.load(std::memory_order_relaxed), to.lsn), std::memory_order_release);
    cuts_.fetch_add(1, std::memory_order_release);
  }
  // What an asynchronous rule had committed here may be lost.
  committed_ = std::min(committed_, to.lsn);
  counters_[kCommittedLsn].store(committed_, std::memory_order_release);
  EngineEvent cut{"log-cut", settings_.nodeId, "WALSHIP_ERR_DIVERGED",
                  "LSN " + std::to_string(to.lsn) + " to " + std::to_string(from.lsn) +
                      " diverged from the upstream's log; set aside in a diverged-… file of the log directory",
                  to.lsn};
  newEvent(std::move(cut));
}

void Pump::afterCut() { cuts_.fetch_add(1, std::memory_order_release); }

// ---- roles ----

Result<uint64_t> Pump::promote(uint64_t epoch) {
  if (failed_) return makeError("WALSHIP_ERR_FAILED", "the engine's storage has failed; it can't be primary");
  if (primary_) return makeError("WALSHIP_ERR_IS_PRIMARY", "this node is the primary already");
  NodeRecord record = store_.record();
  const uint64_t floor = std::max({record.promisedEpoch, store_.epoch(), heardEpoch_});
  if (epoch == 0) epoch = floor + 1;
  if (epoch < floor || epoch <= store_.epoch()) {
    return makeError("WALSHIP_ERR_EPOCH", "epoch " + std::to_string(epoch) + " is not newer than epoch " +
                                              std::to_string(floor) + " that this node knows");
  }
  if (upstream_) dropUpstream(makeError("WALSHIP_ERR_LINK_CLOSED", "this node is being promoted"));
  record.history.push_back({epoch, store_.received().lsn});
  record.promisedEpoch = epoch;
  record.protectedLsn = protected_;
  if (auto stored = store_.storeRecord(std::move(record)); !stored) return stored.error();
  appender_.start(epoch);
  primary_ = true;
  for (auto& proven : proven_) proven.store(0, std::memory_order_release);
  commitMovedNs_ = monotonicNs();
  heardEpoch_ = epoch;
  counters_[kEpoch].store(epoch);
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
  commitSamples_.clear();
  flushSamples_.clear();
  event("demoted", settings_.nodeId, {});
  return store_.epoch();
}

Result<uint64_t> Pump::promise(uint64_t epoch) {
  NodeRecord record = store_.record();
  if (epoch < record.promisedEpoch || epoch < store_.epoch()) {
    return makeError("WALSHIP_ERR_EPOCH", "this node has already promised epoch " +
                                              std::to_string(std::max(record.promisedEpoch, store_.epoch())));
  }
  // The fence first: after the links of older epochs are gone nothing of theirs can land any more.
  if (primary_ && epoch > store_.epoch()) static_cast<void>(demote());
  if (upstream_ && upstream_->epoch() < epoch) dropUpstream(makeError("WALSHIP_ERR_EPOCH", "this node promised a newer epoch"));
  record.promisedEpoch = epoch;
  record.protectedLsn = protected_;
  if (auto stored = store_.storeRecord(std::move(record)); !stored) return stored.error();
  return store_.receivedLsn();
}

void Pump::fail(const Error& error) {
  if (failed_) return;
  failed_ = true;
  appender_.fail(error);
  event("failed", settings_.nodeId, error);
  for (auto& [id, session] : downstreams_) session->end(error);
  if (upstream_) upstream_->end(error);
}

// ---- what people see ----

void Pump::event(const char* type, const std::string& node, const Error& detail) {
  newEvent({type, node, detail.message.empty() ? "" : detail.code, detail.message, store_.receivedLsn()});
}

void Pump::newEvent(EngineEvent event) {
  {
    const std::lock_guard lock(statusMutex_);
    if (events_.size() < kEventsMax) events_.push_back(std::move(event));
  }
  notifyDue_ = true;
}

uint64_t Pump::lagNs(uint64_t lsn, uint64_t nowNs) const {
  // The first sample not reached yet tells since when the node has been behind.
  const auto late = std::upper_bound(madeSamples_.begin(), madeSamples_.end(), lsn,
                                     [](uint64_t value, const Sample& sample) { return value < sample.lsn; });
  return late == madeSamples_.end() ? 0 : elapsedNs(late->ns, nowNs);
}

void Pump::tick(uint64_t nowNs) {
  watchStalls(nowNs);
  if (primary_) watchRule(nowNs);
  renewSnapshot(nowNs);
  counters_[kEpoch].store(epoch(), std::memory_order_relaxed);
  const bool starved = store_.arena().starved.load(std::memory_order_acquire) || counters_[kStarved].load() != 0;
  if (starved && store_.arena().available() > store_.arena().slots() / 8) {
    store_.arena().starved.store(false, std::memory_order_release);
    counters_[kStarved].store(0, std::memory_order_release);
    if (primary_) event("writable", settings_.nodeId, {});
  }
}

void Pump::watchStalls(uint64_t nowNs) {
  const uint64_t tail = store_.receivedLsn();
  for (auto& [key, node] : tree_.nodes()) {
    const bool behind = node.positions.received < tail || node.positions.applied < node.positions.received;
    if (!behind) node.movedNs = nowNs;
    const bool stalled = behind && node.movedNs != 0 && elapsedNs(node.movedNs, nowNs) > uint64_t{settings_.stallMs} * kMs;
    if (stalled != node.stalled) {
      node.stalled = stalled;
      event(stalled ? "stalled" : "moving", node.description.node, {});
    }
  }
}

void Pump::watchRule(uint64_t nowNs) {
  const uint64_t end = store_.receivedLsn();
  if (committed_ >= end) commitMovedNs_ = nowNs;
  const bool failing = elapsedNs(commitMovedNs_, nowNs) > uint64_t{settings_.ruleMs} * kMs;
  if (failing == ruleFailing_) return;
  ruleFailing_ = failing;
  const std::string needed =
      rule_.level == CommitLevel::async
          ? "this node's own disk has not taken them"
          : "the rule needs " + std::to_string(rule_.count) + " standby(s), " + std::to_string(tree_.nodes().size()) +
                " connected";
  const Error why = failing ? makeError("WALSHIP_ERR_COMMIT_RULE", "commits wait: " + needed + "; LSN " + std::to_string(end) +
                                                                       " is appended, " + std::to_string(committed_) +
                                                                       " committed")
                            : Error{};
  event(failing ? "rule-failing" : "rule-met", settings_.nodeId, why);
}

void Pump::renewSnapshot(uint64_t nowNs) {
  StatusSnapshot fresh;
  if (upstream_) {
    fresh.links.push_back({upstream_->node(), "upstream", upstream_->streaming(), upstream_->link().rail(),
                           upstream_->link().counters(), 0, 0});
  }
  for (const auto& [id, session] : downstreams_) {
    const Histogram& roundTrip = session->roundTripNs();
    fresh.links.push_back({session->node(), "downstream", session->streaming(), session->link().rail(),
                           session->link().counters(), roundTrip.quantile(0.5), roundTrip.quantile(0.99)});
  }
  const uint64_t tail = store_.receivedLsn();
  for (const auto& [key, node] : tree_.nodes()) {
    const Describe& who = node.description;
    std::string parent = settings_.nodeId;
    if (who.parentKey != nodeKey_) {
      const auto found = tree_.nodes().find(who.parentKey);
      parent = found != tree_.nodes().end() ? found->second.description.node : "?";
    }
    fresh.nodes.push_back({who.node, parent, node.positions, tail - std::min(tail, node.positions.received),
                           lagNs(node.positions.received, nowNs) / kMs, elapsedNs(node.heardNs, nowNs) / kMs, node.stalled,
                           Rail{who.transport, who.device, who.local, who.remote, 0}});
  }
  fresh.upstreamTailLsn = upstreamTailLsn_;
  fresh.upstreamHeardMsAgo = upstreamHeardNs_ == 0 ? 0 : elapsedNs(upstreamHeardNs_, nowNs) / kMs;
  fresh.heardEpoch = heardEpoch_;
  fresh.ruleFailing = ruleFailing_;
  const std::lock_guard lock(statusMutex_);
  snapshot_ = std::move(fresh);
}

}  // namespace walship

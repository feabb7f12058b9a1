#include "engine/pump.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <future>

#include "base/checksum.h"
#include "base/clock.h"

namespace walship {

namespace {
constexpr uint64_t kWakeId = 0;
constexpr uint32_t kBusyRoundsPerLook = 4;
constexpr int kEventsMax = 32;
constexpr int kTurnRoundsMax = 6;
constexpr uint64_t kMs = 1'000'000;
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
      reign_(store.record().history.empty() ? EpochStart{} : store.record().history.back()),
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
  showEpochs();
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

// Only what follows from an append is done here: with anything else under way the pump's own thread goes on.
void Pump::takeTurn() {
  if (!sleeping_.load(std::memory_order_seq_cst)) return;  // it looks for appends before it sleeps
  {
    const std::unique_lock turn(turn_, std::try_to_lock);
    if (turn && primary_ && !commandsPending_.load(std::memory_order_acquire)) {
      for (int rounds = 0; rounds < kTurnRoundsMax; ++rounds) {
        if (round(monotonicNs())) continue;
        // A link that has something to say still, as of what it has sent, is asked for that in the next round.
        if (armLinks() && !notifyDue_.load(std::memory_order_relaxed)) return;
      }
    }
  }
  wake();
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
  appliedDue_.store(true, std::memory_order_seq_cst);
  wake();
}

bool Pump::setApplied(uint64_t lsn, uint64_t cuts) {
  if (!noteApplied(lsn, cuts)) return false;
  appliedDue_.store(true, std::memory_order_seq_cst);
  wake();
  return true;
}

bool Pump::noteApplied(uint64_t lsn, uint64_t cuts) {
  const std::lock_guard lock(appliedMutex_);
  if (cuts_.load(std::memory_order_relaxed) != cuts) return false;
  applied_.store(lsn, std::memory_order_release);
  if (counters_[kAwaited].load(std::memory_order_acquire) != 0) wake();  // who waits in JavaScript may wait for this
  return true;
}

void Pump::expectApplied() { appliedExpectedNs_.store(monotonicNs(), std::memory_order_relaxed); }

void Pump::setHorizon(const Horizon& horizon) {
  post([this, horizon] { ownHorizon_ = horizon; });
}

Horizon Pump::horizon() const {
  Horizon all = tree_.horizon();
  all.include(ownHorizon_);
  return all;
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
  std::unique_lock turn(turn_);
  while (!stopping_.load(std::memory_order_acquire)) {
    const uint64_t nowNs = monotonicNs();
    const bool busy = round(nowNs);
    if (busy) {
      lastBusyNs_ = nowNs;
      // However busy, links that only events announce must be heard.
      if (++busyRounds_ % kBusyRoundsPerLook == 0) takeEvents();
      continue;
    }
    const bool spin = settings_.completion == CompletionMode::busy ||
                      (settings_.completion == CompletionMode::adaptive &&
                       nowNs - lastBusyNs_ < uint64_t{settings_.spinUs} * 1000);
    if (spin) {
      takeEvents();
    } else {
      sleep(nowNs, turn);
    }
  }
  runCommands();  // so that nobody waits in call() for ever
  appender_.stop();
  counters_[kReceivedLsn].store(store_.receivedLsn(), std::memory_order_release);  // what was still to be sealed, too
  store_.passToFlusher(SyncUrgency::usual);
  const Error closing = makeError("WALSHIP_ERR_CLOSED", "the engine is closing");
  for (auto& [id, session] : downstreams_) session->end(closing);
  if (upstream_) upstream_->end(closing);
  upstream_.reset();
  downstreams_.clear();
  spares_.clear();
  parked_.clear();
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
  busy |= pollParked();
  busy |= positionsChanged();
  if (primary_) tellObservers();  // a server's commits wait for that; those below a standby, for what is sent up
  for (auto& [id, session] : downstreams_) {
    busy |= session->step(nowNs);
    session->link().flush();
  }
  if (upstream_) {
    busy |= upstream_->step(nowNs);
    if (upstream_) upstream_->link().flush();
  }
  stepParked(nowNs);
  if (const uint64_t tookNs = store_.passToFlusher(syncUrgency()); tookNs != 0) {
    counters_[kSyncs].fetch_add(1, std::memory_order_relaxed);
    histograms_.syncNs.recordShared(tookNs);
  }
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
  if (upstream_ && upstream_->ended()) upstreamEnded();
  reapSpares();
}

void Pump::part(const DownstreamSession& session) {
  event("downstream-down", session.node(), *session.ended());
  unwatch(session.link());
  // If the downstream has another link here it need not find out by itself.
  for (auto& [id, link] : parked_) {
    if (link->node() == session.node()) link->say(encode(Lost{session.number()}));
  }
  // What it said last: the log is kept for it from there on.
  const auto found = tree_.nodes().find(session.nodeKey());
  if (found != tree_.nodes().end() && found->second.via == &session) {
    hooks_.keepFor(session.node(), found->second.positions.flushed);
  }
}

// A position that JavaScript sees has moved. Both sides change kAwaited in one step, so that either JavaScript sees the
// position, or this sees that somebody waits.
void Pump::noteMoved() {
  if (counters_[kAwaited].fetch_or(0, std::memory_order_acq_rel) != 0) notifyDue_ = true;
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
  for (auto* links : {&spares_, &parked_}) {
    for (auto& [id, link] : *links) {
      if (link->claimed() || link->link().arm()) continue;
      link->polledBusy = true;
      return false;
    }
  }
  return true;
}

void Pump::sleep(uint64_t nowNs, std::unique_lock<std::mutex>& turn) {
  if (!armLinks()) return;
  sleeping_.store(true, std::memory_order_seq_cst);
  const bool news = commandsPending_.load(std::memory_order_seq_cst) || (primary_ && appender_.pending()) ||
                    store_.flushedLsn() != seenFlushed_ || appliedDue_.load(std::memory_order_seq_cst) ||
                    notifyDue_.load(std::memory_order_seq_cst) || stopping_.load(std::memory_order_seq_cst);
  if (!news) {
    counters_[kPumpSleeps].fetch_add(1, std::memory_order_relaxed);
    uint64_t wakeNs = lastTickNs_ + uint64_t{settings_.session.heartbeatMs} * kMs / 2;
    if (upstream_ && upstream_->streaming()) wakeNs = std::min(wakeNs, upstream_->ackDueNs());
    epoll_event events[kEventsMax];
    turn.unlock();
    const int count = ::epoll_wait(epoll_.get(), events, kEventsMax,
                                   wakeNs > nowNs ? static_cast<int>((wakeNs - nowNs) / kMs + 1) : 0);
    turn.lock();
    for (int i = 0; i < count; ++i) heed(events[i].data.u64);
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

void Pump::takeEvents() {
  epoll_event events[kEventsMax];
  const int count = ::epoll_wait(epoll_.get(), events, kEventsMax, 0);
  for (int i = 0; i < count; ++i) heed(events[i].data.u64);
}

void Pump::heed(uint64_t eventId) {
  if (eventId == kWakeId) {
    uint64_t ignored;
    while (::read(wakeFd_.get(), &ignored, sizeof ignored) > 0) {
    }
  } else if (eventId == kUpstreamId) {
    if (upstream_) upstream_->polledBusy = true;
  } else if (const auto found = downstreams_.find(eventId); found != downstreams_.end()) {
    found->second->polledBusy = true;
  } else {
    for (auto* links : {&spares_, &parked_}) {
      if (const auto link = links->find(eventId); link != links->end()) link->second->polledBusy = true;
    }
  }
}

}  // namespace walship

// What people see of a node: events, stalls, the snapshot behind status().
#include "base/clock.h"
#include "engine/pump.h"

namespace walship {

namespace {
constexpr size_t kEventsMax = 1024;
constexpr size_t kHistoryShownMax = 16;
constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kExpectedNs = 1000 * kMs;  // a commit that waits until it is applied is followed by others for so long
}  // namespace

void Pump::event(const char* type, const std::string& node, const Error& detail) {
  newEvent({type, node, detail.message.empty() ? "" : detail.code, detail.message, store_.receivedLsn()});
}

void Pump::newEvent(EngineEvent event) {
  {
    const std::lock_guard lock(statusMutex_);
    if (events_.size() < kEventsMax) events_.push_back(std::move(event));
  }
  notifyDue_.store(true, std::memory_order_seq_cst);
  wake();
}

// How long ago what is missing behind `lsn` began to be made; at least so long, where nothing as old is known.
uint64_t Pump::lagMs(uint64_t lsn, uint64_t nowNs) const {
  if (primary_ && lsn >= store_.receivedLsn()) return 0;
  const uint64_t asOfNs = freshness_.asOfNs(lsn);
  const uint64_t sinceNs = asOfNs != 0 ? asOfNs : freshness_.oldestNs();
  return sinceNs == 0 ? kNotKnown : elapsedNs(sinceNs, nowNs) / kMs;
}

uint64_t Pump::ageNs(uint64_t nowNs) const {
  if (primary_) return 0;
  const uint64_t asOfNs = freshness_.asOfNs(store_.receivedLsn());
  return asOfNs == 0 ? kNotKnown : elapsedNs(asOfNs, nowNs);
}

void Pump::showFreshness() {
  counters_[kReceivedAsOfNs].store(freshness_.asOfNs(store_.receivedLsn()), std::memory_order_relaxed);
  counters_[kAppliedAsOfNs].store(freshness_.asOfNs(appliedLsn()), std::memory_order_relaxed);
}

void Pump::tick(uint64_t nowNs) {
  watchStalls(nowNs);
  watchSilence(nowNs);
  if (primary_) {
    watchRule(nowNs);
    static_cast<void>(leaseHolds());  // its end is told even when nothing waits for a commit
  }
  const uint64_t expectedNs = appliedExpectedNs_.load(std::memory_order_relaxed);
  if (expectedNs != 0 && elapsedNs(expectedNs, nowNs) > kExpectedNs) appliedExpectedNs_.store(0, std::memory_order_relaxed);
  const Horizon horizonNow = horizon();
  horizonRows_.store(horizonNow.rows);
  horizonCatalog_.store(horizonNow.catalog);
  renewSnapshot(nowNs);
  releaseWriters();
}

void Pump::releaseWriters() {
  const bool refused = counters_[kStarved].load() != 0;
  if (!refused && !store_.arena().starved.load(std::memory_order_acquire)) return;
  if (appender_.held() || store_.arena().available() <= store_.arena().slots() / 8) return;
  store_.arena().starved.store(false, std::memory_order_release);
  counters_[kStarved].store(0, std::memory_order_release);
  // Also when this node is no primary any more: who waits is to see that.
  if (refused) event("writable", settings_.nodeId, {});
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
    fresh.nodes.push_back({who.node, parent, node.epoch, node.positions, tail - std::min(tail, node.positions.received),
                           lagMs(node.positions.received, nowNs),
                           lagMs(node.positions.applied, nowNs), elapsedNs(node.heardNs, nowNs) / kMs, node.stalled,
                           Rail{who.transport, who.device, who.local, who.remote, 0}});
  }
  const EpochHistory& history = store_.record().history;
  fresh.history.assign(history.end() - static_cast<std::ptrdiff_t>(std::min(history.size(), kHistoryShownMax)), history.end());
  showRails(nowNs, fresh);
  fresh.upstreamTailLsn = upstreamTailLsn_;
  const uint64_t heardNs = counters_[kUpstreamHeardNs].load(std::memory_order_relaxed);
  fresh.upstreamHeardMsAgo = heardNs == 0 ? 0 : elapsedNs(heardNs, nowNs) / kMs;
  fresh.ruleFailing = ruleFailing_;
  const std::lock_guard lock(statusMutex_);
  snapshot_ = std::move(fresh);
}

}  // namespace walship

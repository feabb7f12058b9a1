// Which links there are and which of them carry a session: links come, are parked, taken up, given up for others.
//
// A downstream keeps a spare link for every rail that it was told to; its session goes on over one of them as soon as its
// own link is gone, or by an order from above. Going on is a hand-shake like any other, so nothing is lost, doubled or
// reordered: the old link is destroyed first, which is the fence, and the upstream is offered where this log ends.
#include <algorithm>

#include "base/clock.h"
#include "engine/pump.h"
#include "fabric/bundle.h"

namespace walship {

namespace {
constexpr uint64_t kMs = 1'000'000;
// A link that lived this long was a good one: the next try is made soon.
constexpr uint64_t kGoodLinkNs = 1'000 * kMs;
constexpr size_t kParkedPerNodeMax = 2 * kRailsMax;
constexpr uint32_t kSparePauseMsMin = 50;
constexpr uint32_t kSparePauseMsMax = 2000;

// The way is gone, as opposed to: the other side will not have us.
bool linkFailed(const Error& why) {
  return why.is("WALSHIP_ERR_LINK_CLOSED") || why.is("WALSHIP_ERR_LINK_BROKEN") || why.is("WALSHIP_ERR_LINK_TIMEOUT");
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : " + ") + name;
  return text;
}
}  // namespace

std::unique_ptr<ParkedLink> Pump::unpark(ParkedLinks& from, uint64_t id) {
  const auto found = from.find(id);
  WALSHIP_ASSERT(found != from.end());
  auto link = std::move(found->second);
  from.erase(found);
  unwatch(link->link());
  return link;
}

void Pump::postLink(void (Pump::*adopt)(Established), Established established) {
  // std::function wants copies: the link travels in a shared box.
  auto box = std::make_shared<Established>(std::move(established));
  post([this, adopt, box] { (this->*adopt)(std::move(*box)); });
}

// ---- the upstream's side ----

void Pump::adoptDownstream(Established established) {
  if (failed_ || stopping_.load()) return;
  const auto ofNode = [&](const auto& item) { return item.second->node() == established.node; };
  if (std::count_if(parked_.begin(), parked_.end(), ofNode) >= static_cast<std::ptrdiff_t>(kParkedPerNodeMax)) {
    unpark(parked_, std::find_if(parked_.begin(), parked_.end(), ofNode)->first).reset();
  }
  const uint64_t id = nextSession_++;
  watch(*established.link, id);
  auto link = std::make_unique<ParkedLink>(std::move(established.link), established.node, "", ParkedLink::Side::answers,
                                           parkedSettings());
  if (!railEnds_.empty()) link->say(encode(Rails{railEnds_}));
  parked_[id] = std::move(link);
}

// Begins the sessions that downstreams ask for.
void Pump::admit() {
  std::vector<std::vector<uint64_t>> due;
  for (const auto& [id, link] : parked_) {
    if (!link->claimed() || link->ended()) continue;
    if (std::holds_alternative<Offer>(link->claims().front())) {
      due.push_back({id});
      continue;
    }
    // The first lane brings the Offer, and the others are looked for.
    const auto& bind = std::get<Bind>(link->claims().front());
    if (bind.lane != 0 || link->claims().size() < 2) continue;
    std::vector<uint64_t> lanes{id};
    for (uint8_t lane = 1; lane < bind.lanes; ++lane) {
      const auto other = std::find_if(parked_.begin(), parked_.end(), [&](const auto& item) {
        const ParkedLink& candidate = *item.second;
        if (!candidate.claimed() || candidate.ended() || candidate.node() != link->node()) return false;
        const auto* its = std::get_if<Bind>(&candidate.claims().front());
        return its != nullptr && its->session == bind.session && its->lanes == bind.lanes && its->lane == lane;
      });
      if (other != parked_.end()) lanes.push_back(other->first);
    }
    if (lanes.size() == bind.lanes) due.push_back(std::move(lanes));
  }
  for (const auto& lanes : due) {
    if (std::all_of(lanes.begin(), lanes.end(), [&](uint64_t id) { return parked_.contains(id); })) beginDownstream(lanes);
  }
}

void Pump::beginDownstream(const std::vector<uint64_t>& lanes) {
  std::vector<std::unique_ptr<Link>> links;
  std::vector<std::deque<Buffer>> heard;
  std::string node;
  for (const uint64_t id : lanes) {
    auto parked = unpark(parked_, id);
    node = parked->node();
    auto [link, messages] = parked->release();
    if (lanes.size() > 1) messages.pop_front();  // the Bind
    links.push_back(std::move(link));
    heard.push_back(std::move(messages));
  }
  // A node that begins a session has given up its old one, even if this side has not noticed yet.
  for (auto& [id, session] : downstreams_) {
    if (session->node() == node) session->end(makeError("WALSHIP_ERR_LINK_CLOSED", "'" + node + "' goes on over another link"));
  }
  reap();
  const bool striped = links.size() > 1;
  std::unique_ptr<Link> link =
      striped ? std::make_unique<Bundle>(std::move(links), std::move(heard)) : std::move(links.front());
  const uint64_t id = nextSession_++;
  watch(*link, id);
  auto session = std::make_unique<DownstreamSession>(*this, std::move(link), node);
  session->polledBusy = true;
  event("downstream-up", node, {});
  if (!striped) {
    for (const Buffer& message : heard.front()) session->onMessage(message);
  }
  downstreams_[id] = std::move(session);
}

// ---- the downstream's side ----

void Pump::adoptUpstream(Established established) {
  if (failed_ || primary_ || stopping_.load()) return;
  if (upstream_ && upstream_->node() != established.node) return;  // of a node that was followed before
  railProblems_.erase(established.rail);
  const bool first = !upstream_ && spares_.empty();
  const bool have = std::any_of(spares_.begin(), spares_.end(),
                                [&](const auto& item) { return item.second->rail() == established.rail; });
  if (have) return;  // one spare for each is enough
  const uint64_t id = nextSession_++;
  watch(*established.link, id);
  spares_[id] = std::make_unique<ParkedLink>(std::move(established.link), established.node, established.rail,
                                             ParkedLink::Side::probes, parkedSettings());
  if (first) {
    goOnAfterGap();
  } else {
    event("rail-up", spares_[id]->node(), makeError("", established.rail));
    moveIfDue();
  }
}

void Pump::beginUpstream(std::vector<std::unique_ptr<ParkedLink>> lanes) {
  WALSHIP_ASSERT(!upstream_ && !lanes.empty());
  const uint64_t number = monotonicNs();
  const std::string node = lanes.front()->node();
  railsUsed_.clear();
  std::vector<std::unique_ptr<Link>> links;
  for (size_t i = 0; i < lanes.size(); ++i) {
    railsUsed_.push_back(lanes[i]->rail());
    if (lanes.size() > 1) {
      lanes[i]->say(encode(Bind{number, static_cast<uint8_t>(i), static_cast<uint8_t>(lanes.size())}));
    }
    auto [link, messages] = lanes[i]->release();
    links.push_back(std::move(link));
  }
  std::unique_ptr<Link> link = links.size() == 1
                                   ? std::move(links.front())
                                   : std::make_unique<Bundle>(std::move(links), std::vector<std::deque<Buffer>>(lanes.size()));
  watch(*link, kUpstreamId);
  upstream_ = std::make_unique<UpstreamSession>(*this, std::move(link), node, number);
  upstream_->polledBusy = true;
  upstreamSinceNs_ = monotonicNs();
  // Beside each rail that carries the session a spare link is kept, too.
  for (const std::string& rail : railsUsed_) hooks_.reconnect(rail, true);
}

// Takes up the best spare link, those of `failed` rails last. false: there is none, or none may be taken yet.
bool Pump::goOnOverSpare(const std::vector<std::string>& failed) {
  if (upstream_ || primary_ || failed_ || monotonicNs() < spareDueNs_) return false;
  uint64_t best = 0;
  size_t bestRank = SIZE_MAX;
  const uint64_t nowNs = monotonicNs();
  for (const auto& [id, spare] : spares_) {
    // One that has been silent for long is no better than none.
    if (spare->ended() || elapsedNs(spare->heardNs(), nowNs) > uint64_t{settings_.session.linkTimeoutMs} * kMs / 2) continue;
    auto rank = static_cast<size_t>(std::find(railOrder_.begin(), railOrder_.end(), spare->rail()) - railOrder_.begin());
    // It may share the fate of the link that is gone, and not have found out.
    if (std::find(failed.begin(), failed.end(), spare->rail()) != failed.end()) rank += 2 * kRailsMax;
    if (elapsedNs(spare->heardNs(), nowNs) > uint64_t{settings_.session.railSilenceMs} * kMs) rank += 4 * kRailsMax;
    if (best == 0 || rank < bestRank) {
      best = id;
      bestRank = rank;
    }
  }
  if (best == 0) return false;
  std::vector<std::unique_ptr<ParkedLink>> lanes;
  lanes.push_back(unpark(spares_, best));
  beginUpstream(std::move(lanes));
  return true;
}

void Pump::goOnAfterGap() {
  const std::vector<std::string> before = railsUsed_;
  if (!goOnOverSpare({}) || before.empty() || before == railsUsed_) return;
  event("rail-changed", upstream_->node(),
        makeError("", listed(before) + " → " + listed(railsUsed_) + ": the first one that is up again"));
}

void Pump::endUpstream() {
  unwatch(upstream_->link());
  upstream_.reset();
}

// By itself: goes on over another link at once if it was the link that failed.
void Pump::upstreamEnded() {
  const Error why = *upstream_->ended();
  const std::string node = upstream_->node();
  const std::vector<std::string> before = railsUsed_;
  const bool good = elapsedNs(upstreamSinceNs_, monotonicNs()) > kGoodLinkNs;
  endUpstream();
  if (good) sparePauseMs_ = 0;
  if (!linkFailed(why) && !spares_.empty()) {
    sparePauseMs_ = std::clamp(sparePauseMs_ * 2, kSparePauseMsMin, kSparePauseMsMax);
    spareDueNs_ = monotonicNs() + uint64_t{sparePauseMs_} * kMs;
  }
  railsWanted_.clear();  // decided when these were well; it is decided anew
  if (linkFailed(why)) {
    for (const std::string& rail : before) ++railFailures_[rail];
  }
  if (goOnOverSpare(before)) {
    event("rail-changed", node, makeError(why.code, listed(before) + " → " + listed(railsUsed_) + ": " + why.message));
    return;
  }
  event("upstream-down", node, why);
  if (monotonicNs() >= spareDueNs_) hooks_.reconnect("", good);
}

void Pump::dropUpstream(const Error& why) {
  const bool had = upstream_ != nullptr || !spares_.empty();
  const bool good = elapsedNs(upstreamSinceNs_, monotonicNs()) > kGoodLinkNs;
  if (upstream_) {
    const std::string node = upstream_->node();
    endUpstream();
    event("upstream-down", node, why);
  }
  dropSpares();
  railsUsed_.clear();
  upstreamRails_ = {};
  railProblems_.clear();
  railFailures_.clear();
  spareDueNs_ = 0;
  sparePauseMs_ = 0;
  if (!had) return;
  renewSnapshot(monotonicNs());  // so that nobody goes on to decide about these rails
  hooks_.reconnect("", good);
}

void Pump::dropSpares() {
  while (!spares_.empty()) {
    const auto spare = unpark(spares_, spares_.begin()->first);
    hooks_.reconnect(spare->rail(), false);
  }
}

void Pump::reapSpares() {
  for (auto entry = spares_.begin(); entry != spares_.end();) {
    const uint64_t id = entry->first;
    const bool gone = entry->second->ended().has_value();
    ++entry;
    if (!gone) continue;
    const auto spare = unpark(spares_, id);
    railProblems_[spare->rail()] = *spare->ended();
    event("rail-down", spare->node(), makeError(spare->ended()->code, spare->rail() + ": " + spare->ended()->message));
    hooks_.reconnect(spare->rail(), elapsedNs(spare->sinceNs(), monotonicNs()) > kGoodLinkNs);
    if (!upstream_ && spares_.empty()) hooks_.reconnect("", false);
  }
  for (auto entry = parked_.begin(); entry != parked_.end();) {
    const uint64_t id = entry->first;
    const bool gone = entry->second->ended().has_value();
    ++entry;
    if (gone) unpark(parked_, id).reset();
  }
}

void Pump::steer(std::vector<std::string> order, std::vector<std::string> carry, std::string why) {
  railOrder_ = std::move(order);
  railsWanted_ = std::move(carry);
  railsWhy_ = std::move(why);
  moveIfDue();
}

void Pump::moveIfDue() {
  if (railsWanted_.empty() || railsWanted_.size() > kLanesMax || !upstream_ || !upstream_->streaming()) return;
  std::vector<std::string> now = railsUsed_;
  std::vector<std::string> wanted = railsWanted_;
  std::sort(now.begin(), now.end());
  std::sort(wanted.begin(), wanted.end());
  if (now == wanted) return;
  std::vector<uint64_t> ids;
  for (const std::string& rail : wanted) {
    for (const auto& [id, spare] : spares_) {
      if (spare->rail() == rail && !spare->ended()) ids.push_back(id);
    }
  }
  if (ids.size() != wanted.size()) return;
  const std::string node = upstream_->node();
  const std::string before = listed(railsUsed_);
  endUpstream();
  std::vector<std::unique_ptr<ParkedLink>> lanes;
  for (const uint64_t id : ids) lanes.push_back(unpark(spares_, id));
  beginUpstream(std::move(lanes));
  event("rail-changed", node, makeError("", before + " → " + listed(railsUsed_) + ": " + railsWhy_));
}

void Pump::railProblem(const std::string& rail, const Error& error) { railProblems_[rail] = error; }

void Pump::forgetRail(const std::string& rail) {
  railProblems_.erase(rail);
  for (auto entry = spares_.begin(); entry != spares_.end();) {
    const uint64_t id = entry->first;
    const bool its = entry->second->rail() == rail;
    ++entry;
    if (its) unpark(spares_, id).reset();
  }
}

// ---- both ----

bool Pump::pollParked() {
  bool busy = false;
  for (auto* links : {&spares_, &parked_}) {
    for (auto& [id, link] : *links) {
      if (!link->polledBusy && !link->link().polls()) continue;
      link->polledBusy = link->poll();
      busy |= link->polledBusy;
      if (auto rails = link->takeRails()) upstreamRails_ = std::move(*rails);
      if (const auto lost = link->takeLost(); lost && upstream_ && upstream_->number() == lost->session) {
        upstream_->end(makeError("WALSHIP_ERR_LINK_CLOSED", "'" + link->node() + "' has lost this link"));
      }
    }
  }
  if (!parked_.empty()) admit();
  return busy;
}

void Pump::stepParked(uint64_t nowNs) {
  for (auto& [id, link] : spares_) {
    const bool beside = upstream_ && std::find(railsUsed_.begin(), railsUsed_.end(), link->rail()) != railsUsed_.end();
    link->step(nowNs, beside ? upstream_->link().counters().landedBytes : 0);
    link->link().flush();
  }
  for (auto& [id, link] : parked_) {
    link->step(nowNs, 0);
    if (!link->claimed()) link->link().flush();
  }
}

// A session whose link is silent while another link to the same node is not: the rail is at fault, and not the node.
void Pump::watchSilence(uint64_t nowNs) {
  const uint64_t silenceNs = uint64_t{settings_.session.railSilenceMs} * kMs;
  const auto silent = [&](auto& session, const ParkedLinks& links) {
    uint64_t otherNs = 0;
    for (const auto& [id, link] : links) {
      if (link->node() == session.node() && !link->ended()) otherNs = std::max(otherNs, link->heardNs());
    }
    // An answer to an offer may have to wait for a page that is read from disk.
    return !session.ended() &&
           session.silence.judge(session.heardNs(), otherNs, nowNs, session.streaming() ? silenceNs : 3 * silenceNs);
  };
  const auto why = [&](const std::string& node) {
    return makeError("WALSHIP_ERR_LINK_TIMEOUT", "nothing heard from '" + node + "' over this link for " +
                                                     std::to_string(settings_.session.railSilenceMs) +
                                                     " ms, though it answers over another one");
  };
  if (upstream_ && silent(*upstream_, spares_)) upstream_->end(why(upstream_->node()));
  for (auto& [id, session] : downstreams_) {
    if (silent(*session, parked_)) session->end(why(session->node()));
  }
  if (!upstream_ && !spares_.empty()) goOnAfterGap();
  moveIfDue();
}

void Pump::showRails(uint64_t nowNs, StatusSnapshot& snapshot) const {
  snapshot.railEnds = upstreamRails_.ends;
  if (upstream_) snapshot.railsNode = upstream_->node();
  const auto of = [&](const std::string& name) -> RailStatus& {
    const auto found = std::find_if(snapshot.rails.begin(), snapshot.rails.end(),
                                    [&](const RailStatus& rail) { return rail.name == name; });
    if (found != snapshot.rails.end()) return *found;
    snapshot.rails.push_back({});
    snapshot.rails.back().name = name;
    return snapshot.rails.back();
  };
  if (upstream_) {
    for (const std::string& rail : railsUsed_) of(rail).carries = true;
  }
  for (const auto& [id, spare] : spares_) {
    RailStatus& rail = of(spare->rail());
    snapshot.railsNode = spare->node();
    rail.spare = true;
    rail.roundTripNs = spare->roundTripNs();
    rail.heardMsAgo = elapsedNs(spare->heardNs(), nowNs) / kMs;
    rail.retransmits = spare->retransmits();
  }
  for (const auto& [name, problem] : railProblems_) of(name).problem = problem;
  for (RailStatus& rail : snapshot.rails) {
    if (const auto found = railFailures_.find(rail.name); found != railFailures_.end()) rail.failures = found->second;
  }
}

}  // namespace walship

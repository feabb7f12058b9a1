#include "replication/parked.h"

#include <algorithm>

#include "base/clock.h"

namespace walship {

namespace {
constexpr uint64_t kMs = 1'000'000;
constexpr size_t kClaimsMax = 4;  // a Bind and an Offer, then whoever sent them waits for an answer
constexpr uint64_t kCarriedBytesMax = 64u << 10;
}  // namespace

ParkedLink::ParkedLink(std::unique_ptr<Link> link, std::string node, std::string rail, Side side,
                       const ParkedSettings& settings)
    : node_(std::move(node)),
      rail_(std::move(rail)),
      side_(side),
      settings_(settings),
      sinceNs_(monotonicNs()),
      heardNs_(sinceNs_),
      link_(std::move(link)) {
  link_->setHandler(this);
}

void ParkedLink::end(Error error) {
  if (!ended_) ended_ = std::move(error);
}

// A message that finds no room is left out: the next probe, or the session's own timer, makes up for it.
void ParkedLink::say(const Buffer& message) {
  static_cast<void>(link_->send(message));
}

void ParkedLink::step(uint64_t nowNs, uint64_t carriedBytes) {
  carried_ = carriedBytes;
  if (ended_) return;
  if (elapsedNs(heardNs_, nowNs) > uint64_t{settings_.linkTimeoutMs} * kMs) {
    return end(makeError("WALSHIP_ERR_LINK_TIMEOUT",
                         "nothing heard from '" + node_ + "' for " + std::to_string(settings_.linkTimeoutMs) + " ms"));
  }
  if (side_ == Side::answers || probeOut_ || elapsedNs(probeSentNs_, nowNs) < uint64_t{settings_.probeMs} * kMs) return;
  probeSentNs_ = nowNs;
  probeOut_ = true;
  carriedAtProbe_ = carriedBytes;
  say(encode(Probe{nowNs, false, link_->retransmits()}));
}

bool ParkedLink::poll() { return !claimed() && !ended_ && link_->poll(); }

void ParkedLink::onLanded(uint32_t, uint32_t) {
  end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "bytes over a link without a session"));
}

void ParkedLink::onMessage(Bytes bytes) {
  if (ended_) return;
  heardNs_ = monotonicNs();
  auto decoded = decodeMessage(bytes);
  if (!decoded) return end(decoded.error());
  Message& message = decoded.value();
  const bool claim = std::holds_alternative<Offer>(message) || std::holds_alternative<Bind>(message);
  if (side_ == Side::answers && (claim || claimed())) {
    if (claims_.size() >= kClaimsMax) return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "too much said before an answer"));
    kept_.emplace_back(bytes.begin(), bytes.end());
    claims_.push_back(std::move(message));
  } else if (const auto* probe = std::get_if<Probe>(&message); probe != nullptr && probe->answer == (side_ == Side::probes)) {
    take(*probe);
  } else if (auto* rails = std::get_if<Rails>(&message); rails != nullptr && side_ == Side::probes) {
    rails_ = std::move(*rails);
  } else if (const auto* lost = std::get_if<Lost>(&message); lost != nullptr && side_ == Side::probes) {
    lost_ = *lost;
  } else {
    end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a message that does not belong on a link without a session"));
  }
}

void ParkedLink::take(const Probe& probe) {
  peerRetransmits_ = probe.retransmits;
  if (side_ == Side::answers) return say(encode(Probe{probe.sentNs, true, link_->retransmits()}));
  if (!probeOut_ || probe.sentNs != probeSentNs_) {
    return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "an answer to a probe that was not sent"));
  }
  probeOut_ = false;
  if (carried_ - carriedAtProbe_ > kCarriedBytesMax) return;
  roundTrips_[samples_++ % kMedianOf] = elapsedNs(probeSentNs_, heardNs_);
}

uint64_t ParkedLink::roundTripNs() const {
  const size_t count = std::min<uint64_t>(samples_, kMedianOf);
  if (count == 0) return 0;
  std::array<uint64_t, kMedianOf> sorted = roundTrips_;
  std::sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(count));
  return sorted[count / 2];
}

}  // namespace walship

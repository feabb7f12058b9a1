// A link that is up and carries no session: a spare, or one that has just come. Both ends know by it that the rail works,
// and how long it takes; and a session can go on over it at once. Pump thread only.
//
// The downstream probes; the upstream answers, and is told by the first message of another kind what the link is to be:
// an Offer begins a session over it, a Bind makes it a lane of one. From then on it is *claimed*: nothing is done here any
// more, and what was said is kept for whoever takes it over.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <optional>

#include "base/clock.h"
#include "replication/messages.h"

namespace walship {

struct ParkedSettings {
  uint32_t probeMs = 50;
  uint32_t linkTimeoutMs = 1000;
};

// Whether the link of a session has fallen silent although its peer is there: what the pump notes of each session.
//
// The peer must have been heard over other links for a while *during* the silence: that it answers at the end of one may
// mean that it stood still, and that what it says over this link comes a moment later. And silences of the length that this
// link has gone through lately prove nothing: on a busy host they are longer than on an idle one.
class Silence {
 public:
  // `heardNs`: over the session's link; `otherNs`: over the other links to the same node, 0 if there are none.
  bool judge(uint64_t heardNs, uint64_t otherNs, uint64_t nowNs, uint64_t patienceNs) {
    if (heardNs != heardNs_) {
      if (heardNs_ != 0) longestNs_ = std::max(longestNs_, elapsedNs(heardNs_, heardNs));
      heardNs_ = heardNs;
      otherFirstNs_ = 0;
    }
    longestNs_ -= longestNs_ / kForgetting;
    if (otherFirstNs_ == 0 && otherNs > heardNs) otherFirstNs_ = otherNs;
    return otherFirstNs_ != 0 && elapsedNs(heardNs, nowNs) > std::max(patienceNs, 2 * longestNs_) &&
           elapsedNs(otherFirstNs_, otherNs) >= patienceNs / 2;
  }

 private:
  static constexpr uint64_t kForgetting = 512;  // looks
  uint64_t heardNs_ = 0;
  uint64_t otherFirstNs_ = 0;  // the first word over another link since then
  uint64_t longestNs_ = 0;     // of the silences that ended by themselves, fading
};

class ParkedLink final : public LinkHandler {
 public:
  enum class Side : uint8_t { probes, answers };
  // `rail`: its name; empty on the side that answers.
  ParkedLink(std::unique_ptr<Link> link, std::string node, std::string rail, Side side, const ParkedSettings& settings);

  // Probes, and ends a link that is silent. `carriedBytes`: what the session at the same end has carried so far: a probe
  // that was under way beside much of it measures the queue and not the rail, and does not count.
  void step(uint64_t nowNs, uint64_t carriedBytes);
  bool poll();  // not once it is claimed: what follows is for whoever takes it over
  void say(const Buffer& message);  // goes out with the next flush()
  void end(Error error);

  Link& link() { return *link_; }
  const Link& link() const { return *link_; }
  const std::string& node() const { return node_; }
  const std::string& rail() const { return rail_; }
  const std::optional<Error>& ended() const { return ended_; }
  uint64_t sinceNs() const { return sinceNs_; }
  uint64_t heardNs() const { return heardNs_; }
  // The median of the last round trips that count; 0 before the first.
  uint64_t roundTripNs() const;
  // Packets sent again over this link, by both sides.
  uint64_t retransmits() const { return link_->retransmits() + peerRetransmits_; }

  const std::deque<Message>& claims() const { return claims_; }  // the first is an Offer or a Bind
  bool claimed() const { return !claims_.empty(); }
  // What is on the other side's mind; each is given out once.
  std::optional<Rails> takeRails() { return std::exchange(rails_, std::nullopt); }
  std::optional<Lost> takeLost() { return std::exchange(lost_, std::nullopt); }

  // The link, and the messages it has brought that are not for a parked one.
  std::pair<std::unique_ptr<Link>, std::deque<Buffer>> release() { return {std::move(link_), std::move(kept_)}; }

  void onLanded(uint32_t grantId, uint32_t length) override;
  void onMessage(Bytes message) override;
  void onShipped(uint64_t) override {}
  void onDown(const Error& error) override { end(error); }

  bool polledBusy = true;  // the pump's note: the last poll() found something

 private:
  static constexpr size_t kMedianOf = 5;

  void take(const Probe& probe);

  const std::string node_;
  const std::string rail_;
  const Side side_;
  const ParkedSettings settings_;
  const uint64_t sinceNs_;
  std::optional<Error> ended_;
  std::deque<Message> claims_;
  std::deque<Buffer> kept_;
  std::optional<Rails> rails_;
  std::optional<Lost> lost_;
  uint64_t heardNs_;
  uint64_t probeSentNs_ = 0;
  bool probeOut_ = false;
  uint64_t carriedAtProbe_ = 0;
  uint64_t carried_ = 0;
  std::array<uint64_t, kMedianOf> roundTrips_{};
  uint64_t samples_ = 0;
  uint64_t peerRetransmits_ = 0;
  std::unique_ptr<Link> link_;
};

}  // namespace walship

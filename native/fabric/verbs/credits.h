// Flow control of one direction pair. A credit is a receive buffer posted at the peer; every message and
// every range uses one, so a sender that keeps to its credits never finds the receiver not ready.
//
// Credits go back with whatever is sent, or, when a quarter of them has gathered, in a message of their own.
// Such a message may use the last kReserve credits, which nothing else may. That is enough: a credit message
// needs a quarter of the depth to have arrived since the one before, and the peer, having seen none of them,
// cannot have sent more than the whole depth. It is also quiet: a credit message is answered by another only
// after a quarter of the depth.
#pragma once

#include <cstdint>

#include "base/assert.h"

namespace walship {

class Credits {
 public:
  static constexpr uint32_t kReserve = 4;

  // `ownDepth`: receive buffers here; `peerDepth`: there. Both multiples of 4.
  Credits(uint32_t ownDepth, uint32_t peerDepth)
      : threshold_(ownDepth / 4), peerDepth_(peerDepth), available_(peerDepth) {}

  bool maySend() const { return available_ > kReserve; }
  bool mayReturn() const { return available_ > 0; }
  void spend() {
    WALSHIP_ASSERT(available_ > 0);
    --available_;
  }
  // `count` buffers were posted again.
  void posted(uint32_t count) { owed_ += count; }
  bool returnDue() const { return owed_ >= threshold_; }
  // What the next thing sent gives back.
  uint16_t takeOwed() {
    const auto owed = static_cast<uint16_t>(owed_);
    owed_ = 0;
    return owed;
  }
  // false: the peer gives back more than it got.
  bool regain(uint32_t count) {
    if (count > peerDepth_ - available_) return false;
    available_ += count;
    return true;
  }
  uint32_t available() const { return available_; }

 private:
  uint32_t threshold_;
  uint32_t peerDepth_;
  uint32_t available_;
  uint32_t owed_ = 0;
};

}  // namespace walship

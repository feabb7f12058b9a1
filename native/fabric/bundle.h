// Several links to the same peer as one: pages are striped over them, grant g over lane (g - 1) mod n.
//
// Order. Ranges and messages of one direction arrive in the order of the calls, as over a single link: the sender writes
// to one lane until it comes to a page of the next one, says so with a mark at the end of the first, and goes on there;
// the receiver takes a lane's events until that mark, and keeps those of the other lanes meanwhile. So both ends go
// through the lanes in the same order, while the bytes of as many pages as there are lanes are on their way at a time.
// Messages go over the lane that the sender is at; a side that ships nothing stays at lane 0.
//
// A lane that is down takes the bundle with it: the session begins anew over what is left.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "base/wire.h"
#include "fabric/link.h"

namespace walship {

class Bundle final : public Link {
 public:
  // At least two lanes, at most kLanesMax; nothing has been shipped or granted on them. `heard[i]`: messages that came over
  // lane i before it was a part of this, to be given to the handler in their place.
  Bundle(std::vector<std::unique_ptr<Link>> lanes, std::vector<std::deque<Buffer>> heard);

  Rail rail() const override { return rail_; }
  const LinkCounters& counters() const override;
  uint64_t retransmits() const override;
  RemotePage expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) override;
  void forget(uint32_t grantId) override;
  bool ship(Bytes range, uint32_t grantId, const RemotePage& page, uint32_t offset) override;
  bool send(Bytes message) override;
  void flush() override;
  bool poll() override;
  bool arm() override;
  bool polls() const override { return polls_; }
  std::vector<int> fds() const override;

 private:
  // What a lane has brought, and its turn has not come.
  struct Event {
    uint32_t grantId = 0;  // 0: a message
    uint32_t length = 0;
    Buffer message;
  };
  struct Lane final : LinkHandler {
    Bundle* bundle = nullptr;
    size_t index = 0;
    std::unique_ptr<Link> link;
    std::deque<Event> waiting;
    uint64_t ships = 0;    // given to it
    uint64_t shipped = 0;  // of which it no longer reads

    void onLanded(uint32_t grantId, uint32_t length) override { bundle->landed(*this, grantId, length); }
    void onMessage(Bytes message) override { bundle->heard(*this, message); }
    void onShipped(uint64_t count) override { shipped = count; }
    void onDown(const Error& error) override { bundle->down(error); }
  };

  Lane& laneOf(uint32_t grantId) { return *lanes_[(grantId - 1) % lanes_.size()]; }
  uint32_t laneGrant(uint32_t grantId) const { return static_cast<uint32_t>((grantId - 1) / lanes_.size() + 1); }
  uint32_t bundleGrant(const Lane& lane, uint32_t laneGrantId) const {
    return static_cast<uint32_t>((laneGrantId - 1) * lanes_.size() + lane.index + 1);
  }
  void landed(Lane& lane, uint32_t laneGrantId, uint32_t length);
  void heard(Lane& lane, Bytes message);
  void down(const Error& error);
  bool giveWaiting();
  bool reportShipped();
  void receiveFromNext() { receiving_ = (receiving_ + 1) % lanes_.size(); }

  Rail rail_;
  mutable LinkCounters counters_;
  bool polls_ = false;
  size_t sending_ = 0;    // the lane that is written to
  size_t receiving_ = 0;  // the lane whose events are given to the handler
  std::deque<std::pair<Lane*, uint64_t>> shipsInOrder_;  // (lane, number of the ship there), not reported yet
  uint64_t shipsReported_ = 0;
  bool isDown_ = false;
  std::vector<std::unique_ptr<Lane>> lanes_;  // last: their links are destroyed first
};

}  // namespace walship

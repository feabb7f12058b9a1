#include "fabric/bundle.h"

#include <algorithm>

namespace walship {

namespace {
// A message of one byte that no session sends: the sender goes on over the next lane.
constexpr std::byte kNextLane{255};
// Events kept of a lane whose turn has not come; then it is left alone, and its peer runs out of credits or window.
constexpr size_t kWaitingMax = 1024;

std::string joined(const std::string& one, const std::string& other) {
  return one.empty() || other.empty() ? one + other : one + "+" + other;
}
}  // namespace

Bundle::Bundle(std::vector<std::unique_ptr<Link>> lanes, std::vector<std::deque<Buffer>> heard) {
  WALSHIP_ASSERT(lanes.size() >= 2 && lanes.size() <= kLanesMax && heard.size() == lanes.size());
  for (size_t i = 0; i < lanes.size(); ++i) {
    auto lane = std::make_unique<Lane>();
    lane->bundle = this;
    lane->index = i;
    lane->link = std::move(lanes[i]);
    lane->link->setHandler(lane.get());
    polls_ |= lane->link->polls();
    for (Buffer& message : heard[i]) lane->waiting.push_back({0, 0, std::move(message)});
    const Rail rail = lane->link->rail();
    if (i == 0) {
      rail_ = rail;
    } else {
      rail_ = {rail_.transport == rail.transport ? rail.transport : joined(rail_.transport, rail.transport),
               joined(rail_.device, rail.device), joined(rail_.local, rail.local), joined(rail_.remote, rail.remote),
               std::min(rail_.mtuBytes, rail.mtuBytes)};
    }
    lanes_.push_back(std::move(lane));
  }
}

const LinkCounters& Bundle::counters() const {
  counters_ = {};
  for (const auto& lane : lanes_) counters_.add(lane->link->counters());
  return counters_;
}

uint64_t Bundle::retransmits() const {
  uint64_t sum = 0;
  for (const auto& lane : lanes_) sum += lane->link->retransmits();
  return sum;
}

// ---- downstream side ----

RemotePage Bundle::expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) {
  return laneOf(grantId).link->expect(laneGrant(grantId), page, offset, pageBytes);
}

void Bundle::forget(uint32_t grantId) { laneOf(grantId).link->forget(laneGrant(grantId)); }

void Bundle::landed(Lane& lane, uint32_t laneGrantId, uint32_t length) {
  const uint32_t grantId = bundleGrant(lane, laneGrantId);
  if (lane.index == receiving_ && lane.waiting.empty()) return handler_->onLanded(grantId, length);
  // What follows in the same page is one range as good as two.
  if (!lane.waiting.empty() && lane.waiting.back().grantId == grantId) {
    lane.waiting.back().length += length;
  } else {
    lane.waiting.push_back({grantId, length, {}});
  }
}

void Bundle::heard(Lane& lane, Bytes message) {
  if (lane.index != receiving_ || !lane.waiting.empty()) {
    lane.waiting.push_back({0, 0, Buffer(message.begin(), message.end())});
  } else if (message.size() == 1 && message[0] == kNextLane) {
    receiveFromNext();
  } else {
    handler_->onMessage(message);
  }
}

bool Bundle::giveWaiting() {
  bool any = false;
  while (!isDown_ && !lanes_[receiving_]->waiting.empty()) {
    Lane& lane = *lanes_[receiving_];
    const Event event = std::move(lane.waiting.front());
    lane.waiting.pop_front();
    any = true;
    if (event.grantId != 0) {
      handler_->onLanded(event.grantId, event.length);
    } else if (event.message.size() == 1 && event.message[0] == kNextLane) {
      receiveFromNext();
    } else {
      handler_->onMessage(event.message);
    }
  }
  return any;
}

void Bundle::down(const Error& error) {
  if (std::exchange(isDown_, true)) return;
  handler_->onDown(error);
}

// ---- upstream side ----

bool Bundle::ship(Bytes range, uint32_t grantId, const RemotePage& page, uint32_t offset) {
  Lane& lane = laneOf(grantId);
  while (sending_ != lane.index) {
    if (!lanes_[sending_]->link->send(Bytes(&kNextLane, 1))) return false;
    sending_ = (sending_ + 1) % lanes_.size();
  }
  if (!lane.link->ship(range, laneGrant(grantId), page, offset)) return false;
  shipsInOrder_.emplace_back(&lane, ++lane.ships);
  return true;
}

bool Bundle::reportShipped() {
  const uint64_t before = shipsReported_;
  while (!shipsInOrder_.empty() && shipsInOrder_.front().second <= shipsInOrder_.front().first->shipped) {
    shipsInOrder_.pop_front();
    ++shipsReported_;
  }
  if (shipsReported_ == before) return false;
  handler_->onShipped(shipsReported_);
  return true;
}

// ---- both ----

bool Bundle::send(Bytes message) { return lanes_[sending_]->link->send(message); }

void Bundle::flush() {
  for (const auto& lane : lanes_) lane->link->flush();
}

bool Bundle::poll() {
  if (isDown_) return false;
  bool any = giveWaiting();
  for (const auto& lane : lanes_) {
    if (lane->waiting.size() < kWaitingMax && !isDown_) any |= lane->link->poll();
  }
  any |= giveWaiting();
  if (!isDown_) any |= reportShipped();
  return any;
}

bool Bundle::arm() {
  if (!isDown_ && !lanes_[receiving_]->waiting.empty()) return false;
  for (const auto& lane : lanes_) {
    if (!lane->link->arm()) return false;
  }
  return true;
}

std::vector<int> Bundle::fds() const {
  std::vector<int> all;
  for (const auto& lane : lanes_) {
    for (const int fd : lane->link->fds()) all.push_back(fd);
  }
  return all;
}

}  // namespace walship

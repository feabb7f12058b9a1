// When what a node lacks was made, told without comparing the clocks of two hosts.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>

namespace walship {

constexpr uint64_t kNotKnown = UINT64_MAX;

// Marks, each of which says: everything that the primary had made by this time of *this node's* monotonic clock is below
// this LSN. The primary makes them when it seals. A standby makes them of heartbeats: one that echoes an acknowledgement was
// sent after that, so what it names as the tail holds all that the upstream had when the acknowledgement was sent, a time
// that this node has read from its own clock. However long the heartbeat was on its way, behind whatever bytes, the mark is
// right; and a node that hears nothing gets older marks by waiting. On the pump only (engine/pump.h).
class Freshness {
 public:
  void add(uint64_t lsn, uint64_t asOfNs) {
    cutTo(lsn);
    if (!marks_.empty()) {
      Mark& last = marks_.back();
      if (asOfNs <= last.asOfNs) return;
      if (last.lsn == lsn) {
        last.asOfNs = asOfNs;
        return;
      }
      if (asOfNs - last.asOfNs < kSpacingNs) return;
    }
    if (marks_.size() >= kMarksMax) {
      // Every other one: what is far behind is told more coarsely.
      std::deque<Mark> thinned;
      for (size_t i = 0; i < marks_.size(); i += 2) thinned.push_back(marks_[i]);
      marks_.swap(thinned);
    }
    marks_.push_back({lsn, asOfNs});
  }

  // Behind `lsn` there is another log now.
  void cutTo(uint64_t lsn) {
    while (!marks_.empty() && marks_.back().lsn > lsn) marks_.pop_back();
  }

  // Whoever has everything below `lsn` has all that was made by this time. 0: no mark is as old.
  uint64_t asOfNs(uint64_t lsn) const {
    const auto later = std::upper_bound(marks_.begin(), marks_.end(), lsn,
                                        [](uint64_t value, const Mark& mark) { return value < mark.lsn; });
    return later == marks_.begin() ? 0 : std::prev(later)->asOfNs;
  }

  // The oldest time that is known of; 0: none.
  uint64_t oldestNs() const { return marks_.empty() ? 0 : marks_.front().asOfNs; }

 private:
  static constexpr size_t kMarksMax = 4096;
  static constexpr uint64_t kSpacingNs = 1'000'000;
  struct Mark {
    uint64_t lsn;
    uint64_t asOfNs;
  };
  std::deque<Mark> marks_;  // both grow
};

}  // namespace walship

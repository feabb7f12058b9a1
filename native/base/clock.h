// The two clocks: monotonic for every wait and deadline, wall for what people and other nodes read.
#pragma once

#include <ctime>

#include <cstdint>

namespace walship {

inline uint64_t readClock(clockid_t id) {
  timespec now{};
  ::clock_gettime(id, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000ull + static_cast<uint64_t>(now.tv_nsec);
}

inline uint64_t monotonicNs() { return readClock(CLOCK_MONOTONIC); }
// How long ago `thenNs` was. Threads read the clock at different moments: a time ahead of `nowNs` is now.
constexpr uint64_t elapsedNs(uint64_t thenNs, uint64_t nowNs) { return nowNs > thenNs ? nowNs - thenNs : 0; }

inline uint64_t wallUs() { return readClock(CLOCK_REALTIME) / 1000; }

}  // namespace walship

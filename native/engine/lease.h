// A primary's lease in the data plane: behind the deadline nothing is committed, whether JavaScript lives or not.
//
// Callers speak of the monotonic clock, which stands still while a host is suspended; the deadline is kept on the boot
// clock, which does not: a host that wakes up does not believe in a lease that ran out while it slept.
#pragma once

#include <algorithm>
#include <mutex>
#include <utility>

#include "base/clock.h"

namespace walship {

constexpr uint64_t kNoLease = 0;  // none is asked for: commits depend on the rule alone
constexpr uint64_t kLeaseOver = 1;

inline uint64_t bootNs() { return readClock(CLOCK_BOOTTIME); }

// Turns deadlines of the monotonic clock into such of the boot clock. Any thread.
class LeaseClock {
 public:
  LeaseClock() : sleptNs_(sleptNs()) {}

  uint64_t deadline(uint64_t monotonicUntilNs) { return deadline(monotonicUntilNs, sleptNs()); }

  // `sleptNs`: how long the host has been suspended by now. If that has grown since the last call, it may have grown
  // between the renewal and this call: the deadline is taken as of before. Renewals follow one another, so none is older
  // than the last call.
  uint64_t deadline(uint64_t monotonicUntilNs, uint64_t sleptNs) {
    const std::lock_guard lock(mutex_);
    const uint64_t then = std::exchange(sleptNs_, sleptNs);
    return std::max(monotonicUntilNs + std::min(then, sleptNs), kLeaseOver);
  }

 private:
  // The boot clock is read first: a suspension in between makes the result smaller, so that a lease ends sooner.
  static uint64_t sleptNs() {
    const uint64_t boot = bootNs();
    return elapsedNs(monotonicNs(), boot);
  }

  std::mutex mutex_;
  uint64_t sleptNs_;
};

}  // namespace walship

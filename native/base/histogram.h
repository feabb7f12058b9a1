// Latency histogram: log-linear buckets (16 per power of two: at most 6 % error), one writer, any number of readers that
// never disturb it. Lives in memory that JavaScript may view: plain u64 counters.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace walship {

class Histogram {
 public:
  static constexpr uint32_t kSubBuckets = 16;
  static constexpr uint32_t kBuckets = 40 * kSubBuckets;

  static constexpr uint32_t bucketOf(uint64_t value) {
    if (value < kSubBuckets) return static_cast<uint32_t>(value);
    const uint32_t shift = static_cast<uint32_t>(std::bit_width(value)) - 5;
    const uint32_t bucket = (shift + 1) * kSubBuckets + static_cast<uint32_t>((value >> shift) - kSubBuckets);
    return bucket < kBuckets ? bucket : kBuckets - 1;
  }
  // The lowest value of a bucket.
  static constexpr uint64_t floorOf(uint32_t bucket) {
    if (bucket < kSubBuckets) return bucket;
    const uint32_t shift = bucket / kSubBuckets - 1;
    return uint64_t{kSubBuckets + bucket % kSubBuckets} << shift;
  }

  void record(uint64_t value) {
    auto& bucket = counts_[bucketOf(value)];
    bucket.store(bucket.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  // Where several threads record.
  void recordShared(uint64_t value) { counts_[bucketOf(value)].fetch_add(1, std::memory_order_relaxed); }
  uint64_t count(uint32_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  uint64_t total() const {
    uint64_t sum = 0;
    for (const auto& bucket : counts_) sum += bucket.load(std::memory_order_relaxed);
    return sum;
  }
  // The value below which `share` (0 … 1) of the records lie; 0 if there are none.
  uint64_t quantile(double share) const {
    const uint64_t all = total();
    if (all == 0) return 0;
    const auto wanted = static_cast<uint64_t>(share * static_cast<double>(all - 1)) + 1;
    uint64_t seen = 0;
    for (uint32_t bucket = 0; bucket < kBuckets; ++bucket) {
      const uint64_t here = count(bucket);
      // Those of a bucket are taken to lie evenly in it.
      if (here > 0 && seen + here >= wanted) {
        return floorOf(bucket) + (floorOf(bucket + 1) - floorOf(bucket)) * (wanted - seen - 1) / here;
      }
      seen += here;
    }
    return floorOf(kBuckets - 1);
  }
  void reset() {
    for (auto& bucket : counts_) bucket.store(0, std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, kBuckets> counts_{};
};

}  // namespace walship

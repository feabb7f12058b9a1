#include "engine/flusher.h"

#include "base/clock.h"

namespace walship {

namespace {
constexpr uint32_t kIdleMs = 100;
constexpr uint32_t kDiskFullRetryMs = 100;
constexpr uint64_t kRetainEveryNs = 1'000'000'000;
}  // namespace

Flusher::Flusher(Store& store, const SyncSettings& sync, Counters& counters, Histograms& histograms, Hooks hooks)
    : store_(store),
      sync_(sync),
      counters_(counters),
      histograms_(histograms),
      hooks_(std::move(hooks)),
      thread_([this] { run(); }) {}

Flusher::~Flusher() {
  stopping_.store(true);
  store_.stop();
  thread_.join();
}

void Flusher::run() {
  const uint32_t idleMs = sync_.mode == SyncMode::interval ? std::min(sync_.intervalMs, kIdleMs) : kIdleMs;
  bool problem = false;
  uint64_t retainedNs = monotonicNs();
  uint64_t retainedLsn = store_.flushedLsn();
  while (true) {
    store_.waitForWork(idleMs);
    const bool stopping = stopping_.load();
    const uint64_t before = monotonicNs();
    const auto moved = stopping ? store_.flushAll() : store_.flush();
    const uint64_t after = monotonicNs();
    if (!moved) {
      if (!moved.error().is("WALSHIP_ERR_DISK_FULL")) return hooks_.failed(moved.error());
      if (!problem) hooks_.storageProblem(&moved.error());
      problem = true;
      if (stopping) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(kDiskFullRetryMs));
      continue;
    }
    if (problem) hooks_.storageProblem(nullptr);
    problem = false;
    if (moved.value()) {
      counters_[kSyncs].fetch_add(1, std::memory_order_relaxed);
      histograms_.syncNs.recordShared(after - before);
      hooks_.moved();
    }
    // Also of what the pump has flushed since.
    if (auto marked = store_.mark(); !marked) return hooks_.failed(marked.error());
    if (stopping) return;
    // Every segment's worth, too: then a file that trimming sets free is there for each one that is begun, and under load
    // no file has to be made.
    const uint64_t flushedLsn = store_.flushedLsn();
    if (after - retainedNs >= kRetainEveryNs || flushedLsn - retainedLsn >= store_.geometry().segmentBytes()) {
      retainedNs = after;
      retainedLsn = flushedLsn;
      hooks_.retain();
    }
  }
}

}  // namespace walship

// The flusher: the thread that writes received frames to the segment files, syncs them (group commit: whatever has
// gathered during one sync goes into the next), and trims the log.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "engine/status.h"
#include "replication/store.h"

namespace walship {

class Flusher {
 public:
  struct Hooks {
    std::function<void()> moved;                       // `flushed` moved
    std::function<void(const Error*)> storageProblem;  // a problem that may pass (disk full); nullptr: it has
    std::function<void(const Error&)> failed;          // one that does not
    std::function<void()> retain;                      // about once a second: trim what nobody needs
  };
  Flusher(Store& store, const SyncSettings& sync, Counters& counters, Histograms& histograms, Hooks hooks);
  // Writes and syncs what has been received by then, and ends.
  ~Flusher();

 private:
  void run();

  Store& store_;
  const SyncSettings sync_;
  Counters& counters_;
  Histograms& histograms_;
  const Hooks hooks_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace walship

// The loader: the thread that reads pages back from disk into the arena for lagging downstreams, so that the pump never
// waits for a disk. Bounded: a page is asked for once at a time.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "replication/store.h"

namespace walship {

class Loader {
 public:
  using OnLoaded = std::function<void(uint64_t page, const Error* error)>;
  Loader(Store& store, OnLoaded onLoaded);
  ~Loader();
  void request(uint64_t page);

 private:
  void run();

  Store& store_;
  const OnLoaded onLoaded_;
  std::mutex mutex_;
  std::condition_variable asked_;
  std::deque<uint64_t> queue_;
  std::set<uint64_t> queued_;  // those of queue_, and the one being read
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace walship

// The inspector: the thread that answers what neighbours ask about pages, so that the pump never waits for a disk. It gives
// way to everything else.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "replication/copies.h"

namespace walship {

class Inspector {
 public:
  // Called on the inspector's thread.
  using Done = std::function<void(PageReply)>;
  explicit Inspector(Store& store);
  ~Inspector();
  // Bounded by the links: each has one question under way.
  void request(const PageQuery& query, Done done);

 private:
  void run();

  struct Asked {
    PageQuery query;
    Done done;
  };
  Store& store_;
  std::mutex mutex_;
  std::condition_variable asked_;
  std::deque<Asked> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace walship

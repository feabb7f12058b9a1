// The inspector: the thread that reads and checks copies of pages, for this node's scrubber and for what neighbours ask, so
// that neither the pump nor JavaScript waits for a disk. It gives way to everything else.
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
  explicit Inspector(Store& store);
  // What has not begun by then is never done.
  ~Inspector();
  // `done` is called on the inspector's thread. Bounded: each link has one question under way.
  void answer(const PageQuery& query, std::function<void(PageReply)> done);
  // copiesOf(), and waits for it. Never while the inspector is being destroyed.
  Result<std::vector<PageCopies>> copies(uint64_t first, uint32_t count);

 private:
  using Job = std::function<void()>;
  void post(Job job);
  void run();

  Store& store_;
  std::mutex mutex_;
  std::condition_variable asked_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace walship

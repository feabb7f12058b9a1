// The inspector: the thread that reads and checks copies of pages, for this node's scrubber and for what neighbours ask, so
// that neither the pump nor JavaScript waits for a disk. It gives way to everything else: one piece at a time while the log
// moves, as fast as it goes when it does not.
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
  // Before every piece that is looked at: a pause, if the log is busy. A low priority alone would not do: a commit that
  // finds every core busy waits for the rest of a slice, or for the disk's queue. (ZFS scrubs likewise: zfs_scan_idle,
  // zfs_scrub_delay.)
  void giveWay(size_t bytes);
  void run();

  Store& store_;
  std::mutex mutex_;
  std::condition_variable asked_;
  std::condition_variable stopped_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  uint64_t seenLsn_ = 0;   // these are this thread's alone
  size_t pieceBytes_ = 0;  // looked at since the last pause
  std::thread thread_;
};

}  // namespace walship

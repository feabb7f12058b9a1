// Segment files made ready ahead of the tail by a thread of their own, so that the writer seldom waits for a
// file: it gets one by rename. Files that trimming sets free are spares too; they still hold old pages, which
// page numbers and the frame chain tell from new ones.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace walship {

struct SpareSettings {
  std::string dir;
  uint64_t fileBytes = 0;
  uint32_t wanted = 0;  // kept ready
  bool zeroFill = true;
  uint64_t nextNumber = 0;  // above every spare there is
};

class Spares {
 public:
  // `found`: spares of an earlier run; those of another size are removed.
  Spares(const SpareSettings& settings, const std::vector<std::string>& found);
  ~Spares();
  Spares(const Spares&) = delete;
  Spares& operator=(const Spares&) = delete;

  // A file of the right size, durable in the directory under its spare name. Waits for the thread if none is
  // ready. WALSHIP_ERR_DISK_FULL can be tried again.
  Result<std::string> take();
  // Makes a file that is no longer needed a spare, or removes it if there are more than enough. The caller
  // syncs the directory.
  Result<void> give(const std::string& file);
  // Removes all that are ready.
  Result<void> clear();
  uint64_t bytes() const;

 private:
  void run();
  Result<std::string> make(uint64_t number);
  Result<void> fill(int fd, const std::string& file);
  bool hurried() const;
  void rest(std::chrono::nanoseconds time);
  void wake();  // with mutex_ held

  const SpareSettings settings_;
  mutable std::mutex mutex_;
  std::condition_variable work_;  // for the thread: a file is wanted, the last one is taken, or stop
  std::condition_variable made_;  // for the writer: an attempt has ended
  std::deque<std::string> ready_;
  uint64_t nextNumber_;
  uint64_t attempts_ = 0;  // ended
  bool awaited_ = false;   // the writer waits
  bool stopping_ = false;
  Error failure_;  // of the last attempt
  bool failed_ = false;
  std::thread thread_;  // begun when first needed; last: runs on the members above
};

}  // namespace walship

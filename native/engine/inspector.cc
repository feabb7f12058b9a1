#include "engine/inspector.h"

#include <sys/resource.h>
#include <unistd.h>

namespace walship {

namespace {
constexpr int kNice = 10;
}  // namespace

Inspector::Inspector(Store& store) : store_(store), thread_([this] { run(); }) {}

Inspector::~Inspector() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_.notify_all();
  thread_.join();
}

void Inspector::request(const PageQuery& query, Done done) {
  const std::lock_guard lock(mutex_);
  queue_.push_back({query, std::move(done)});
  asked_.notify_one();
}

void Inspector::run() {
  // Of this thread alone, on Linux. That it cannot be had is no harm.
  static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice));
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const Asked asked = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    asked.done(replyTo(asked.query, store_));
    lock.lock();
  }
}

}  // namespace walship

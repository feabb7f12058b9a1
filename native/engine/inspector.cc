#include "engine/inspector.h"

#include <sys/resource.h>
#include <unistd.h>

#include <future>

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

void Inspector::post(Job job) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back(std::move(job));
  asked_.notify_one();
}

void Inspector::answer(const PageQuery& query, std::function<void(PageReply)> done) {
  post([this, query, done = std::move(done)] { done(replyTo(query, store_)); });
}

Result<std::vector<PageCopies>> Inspector::copies(uint64_t first, uint32_t count) {
  std::promise<Result<std::vector<PageCopies>>> promise;
  auto found = promise.get_future();
  post([&] { promise.set_value(copiesOf(store_, first, count)); });
  return found.get();
}

void Inspector::run() {
  // Of this thread alone, on Linux. That it cannot be had is no harm.
  static_cast<void>(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNice));
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    lock.lock();
  }
}

}  // namespace walship

#include "engine/inspector.h"

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <future>

namespace walship {

namespace {
constexpr int kNice = 10;
// A log that moves within this time is a busy one.
constexpr std::chrono::milliseconds kGlance(1);
// A piece, or a page where that is larger, and a pause: 5 MB/s beside a busy log. A piece takes some 100 µs, so that of the commits on two nodes that are
// looked at as fast as it goes fewer than 1 % meet one.
constexpr size_t kPieceBytes = 256 * 1024;
constexpr std::chrono::milliseconds kPause(50);
}  // namespace

Inspector::Inspector(Store& store) : store_(store), thread_([this] { run(); }) {}

Inspector::~Inspector() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_.notify_all();
  stopped_.notify_all();
  thread_.join();
}

void Inspector::post(Job job) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back(std::move(job));
  asked_.notify_one();
}

void Inspector::answer(const PageQuery& query, std::function<void(PageReply)> done) {
  post([this, query, done = std::move(done)] { done(replyTo(query, store_, [this](size_t bytes) { giveWay(bytes); })); });
}

Result<std::vector<PageCopies>> Inspector::copies(uint64_t first, uint32_t count) {
  std::promise<Result<std::vector<PageCopies>>> promise;
  auto found = promise.get_future();
  const GiveWay giveWay = [this](size_t bytes) { this->giveWay(bytes); };
  post([&] { promise.set_value(copiesOf(store_, first, count, Places::diskAndMemory, giveWay)); });
  return found.get();
}

void Inspector::giveWay(size_t bytes) {
  pieceBytes_ += bytes;
  if (pieceBytes_ < kPieceBytes) return;
  pieceBytes_ = 0;
  const uint64_t lsn = store_.receivedLsn();
  if (std::exchange(seenLsn_, lsn) == lsn) return;
  std::unique_lock lock(mutex_);
  const auto stopping = [&] { return stopping_; };
  if (stopped_.wait_for(lock, kGlance, stopping) || store_.receivedLsn() == lsn) return;
  stopped_.wait_for(lock, kPause, stopping);
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

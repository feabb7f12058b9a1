#include "engine/loader.h"

namespace walship {

namespace {
// When no page can leave the arena the asker tries again; not at once.
constexpr auto kArenaBusyPause = std::chrono::milliseconds(2);
}  // namespace

Loader::Loader(Store& store, OnLoaded onLoaded)
    : store_(store), onLoaded_(std::move(onLoaded)), thread_([this] { run(); }) {}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  asked_.notify_all();
  thread_.join();
}

void Loader::request(uint64_t page) {
  const std::lock_guard lock(mutex_);
  if (!queued_.insert(page).second) return;
  queue_.push_back(page);
  asked_.notify_one();
}

void Loader::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    asked_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const uint64_t page = queue_.front();
    queue_.pop_front();
    lock.unlock();
    const auto loaded = store_.fetch(page, Access::ship);
    if (!loaded && loaded.error().is("WALSHIP_ERR_ARENA_BUSY")) std::this_thread::sleep_for(kArenaBusyPause);
    lock.lock();
    queued_.erase(page);
    lock.unlock();
    onLoaded_(page, loaded ? nullptr : &loaded.error());
    lock.lock();
  }
}

}  // namespace walship

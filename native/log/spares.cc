#include "log/spares.h"

#include <algorithm>
#include <chrono>

#include "log/files.h"
#include "log/segment.h"

namespace walship {

namespace {

constexpr uint64_t kChunkBytes = 1u << 20;
constexpr auto kRetryAfter = std::chrono::seconds(1);
// With a spare left, the next one is not urgent: the disk, and the processor, are the log's for so much of the time.
constexpr uint32_t kRestShare = 9;
constexpr auto kRestMax = std::chrono::milliseconds(100);
// Files that trimming sets free are kept beyond what is wanted, to the number that one trim may give at once:
// making one writes it whole, which costs as much as the log itself.
constexpr uint32_t kGivenMax = 2;

}  // namespace

Spares::Spares(const SpareSettings& settings, const std::vector<std::string>& found)
    : settings_(settings), nextNumber_(settings.nextNumber) {
  for (const std::string& file : found) {
    const auto size = sizeOf(file);
    if (size && size.value() == settings_.fileBytes) {
      ready_.push_back(file);
    } else {
      // A file half made when the process died. If it cannot be removed it is passed over: its number is not
      // reused.
      static_cast<void>(removeFile(file).ok());
    }
  }
  if (ready_.size() < settings_.wanted) {
    const std::lock_guard lock(mutex_);
    wake();
  }
}

Spares::~Spares() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Spares::wake() {
  if (thread_.joinable()) {
    work_.notify_one();
  } else {
    thread_ = std::thread([this] { run(); });
  }
}

Result<std::string> Spares::take() {
  std::unique_lock lock(mutex_);
  if (ready_.empty()) {
    // An earlier failure may have passed by now: only one of an attempt that ends after this call counts.
    const uint64_t before = attempts_;
    awaited_ = true;
    wake();
    made_.wait(lock, [&] { return !ready_.empty() || (failed_ && attempts_ > before); });
    awaited_ = false;
    if (ready_.empty()) return failure_;
  }
  std::string file = std::move(ready_.front());
  ready_.pop_front();
  if (ready_.size() < settings_.wanted) wake();
  return file;
}

Result<void> Spares::give(const std::string& file) {
  std::unique_lock lock(mutex_);
  if (settings_.wanted == 0 || ready_.size() >= settings_.wanted + kGivenMax) {
    lock.unlock();
    return removeFile(file);
  }
  const std::string spare = sparePath(settings_.dir, nextNumber_);
  if (auto renamed = renameFile(file, spare); !renamed) return renamed;
  ++nextNumber_;
  ready_.push_back(spare);
  return {};
}

Result<void> Spares::clear() {
  const std::lock_guard lock(mutex_);
  for (; !ready_.empty(); ready_.pop_front()) {
    if (auto removed = removeFile(ready_.front()); !removed) return removed;
  }
  if (settings_.wanted > 0) wake();
  return {};
}

uint64_t Spares::bytes() const {
  const std::lock_guard lock(mutex_);
  return ready_.size() * settings_.fileBytes;
}

bool Spares::hurried() const {
  const std::lock_guard lock(mutex_);
  return awaited_ || stopping_;
}

// Not when this one is the next to be taken.
void Spares::rest(std::chrono::nanoseconds time) {
  std::unique_lock lock(mutex_);
  work_.wait_for(lock, std::min<std::chrono::nanoseconds>(time, kRestMax),
                 [this] { return awaited_ || stopping_ || ready_.empty(); });
}

void Spares::run() {
  std::unique_lock lock(mutex_);
  const auto wanted = [&] { return stopping_ || awaited_ || ready_.size() < settings_.wanted; };
  while (!stopping_) {
    if (failed_ && !awaited_) {
      work_.wait_for(lock, kRetryAfter, [&] { return stopping_ || awaited_; });
    } else {
      work_.wait(lock, wanted);
    }
    if (stopping_ || !wanted()) continue;
    const uint64_t number = nextNumber_++;
    lock.unlock();
    auto file = make(number);
    lock.lock();
    failed_ = !file.ok();
    if (file) {
      ready_.push_back(file.take());
    } else {
      failure_ = file.error();
    }
    ++attempts_;
    made_.notify_one();
    // Without this the thread would try again before the writer has seen the failure and stopped waiting.
    if (failed_) awaited_ = false;
  }
}

Result<std::string> Spares::make(uint64_t number) {
  const std::string file = sparePath(settings_.dir, number);
  auto fd = openFile(file, O_RDWR | O_CREAT | O_EXCL);
  if (!fd) return fd.error();
  auto filled = fill(fd.value().get(), file);
  if (filled) filled = syncDirectory(settings_.dir);
  if (filled) return file;
  const Error failure = filled.error();
  static_cast<void>(removeFile(file).ok());  // the failure itself is what the writer must hear of
  return failure;
}

Result<void> Spares::fill(int fd, const std::string& file) {
  const auto size = static_cast<off_t>(settings_.fileBytes);
  int error = EINTR;
  while (error == EINTR) error = ::posix_fallocate(fd, 0, size);
  if (error != 0) {
    return ioError("cannot reserve " + std::to_string(settings_.fileBytes) + " bytes for", error, file);
  }
  if (settings_.zeroFill) {
    const std::vector<std::byte> zeros(kChunkBytes);
    // Only for speed (a written block costs less to sync again), so a writer that waits is not kept waiting
    // for it.
    for (uint64_t at = 0; at < settings_.fileBytes && !hurried(); at += kChunkBytes) {
      const auto begun = std::chrono::steady_clock::now();
      const Bytes chunk(zeros.data(), std::min(kChunkBytes, settings_.fileBytes - at));
      if (auto written = writeAt(fd, chunk, at, file); !written) return written;
      // Chunk by chunk: whole files at once would hold up the log's own syncs behind them. An error is told once only, here
      // or by the sync of the file.
      if (::sync_file_range(fd, static_cast<off_t>(at), static_cast<off_t>(chunk.size()),
                            SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER) != 0) {
        return ioError("cannot write", errno, file, static_cast<int64_t>(at));
      }
      rest(kRestShare * (std::chrono::steady_clock::now() - begun));
    }
  }
  if (::fsync(fd) != 0) return ioError("cannot sync", errno, file);
  return {};
}

}  // namespace walship

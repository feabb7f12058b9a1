#include "log/view.h"

#include <algorithm>

#include "log/files.h"

namespace walship {

namespace {

// A reader that is overtaken by this many truncations in a row gives up with what it found.
constexpr int kAttemptsMax = 16;

}  // namespace

void LogView::begin(const LogPosition& origin, const LogPosition& tail) {
  {
    const std::lock_guard lock(originMutex_);
    origin_ = origin;
  }
  firstPage_.store(origin.page, std::memory_order_release);
  firstLsn_.store(origin.lsn, std::memory_order_release);
  grow(byteOf(tail));
}

void LogView::shrink(const LogPosition& tail) {
  if (tail.offset == 0) {
    const std::lock_guard lock(originMutex_);
    origin_ = tail;
  }
  // In this order: a reader that starts after the count has risen knows the new end.
  written_.store(byteOf(tail));
  truncations_.fetch_add(1);
}

void LogView::forgetBelow(uint64_t firstPage, uint64_t firstLsn) {
  firstPage_.store(firstPage, std::memory_order_release);
  firstLsn_.store(firstLsn, std::memory_order_release);
}

Error LogView::trimmed(uint64_t page) const {
  return makeError("WALSHIP_ERR_LOG_TRIMMED",
                   "page " + std::to_string(page) + " is no longer in the log: it begins with page " +
                       std::to_string(firstPage()) + " at LSN " + std::to_string(firstLsn()));
}

template <class T, class Attempt>
Result<T> LogView::settled(uint64_t page, Attempt&& attempt) const {
  for (int tries = 1;; ++tries) {
    const uint64_t truncations = truncations_.load();
    Result<T> result = attempt(written_.load());
    if (result) return result;
    if (page < firstPage()) return trimmed(page);
    if (truncations == truncations_.load() || tries == kAttemptsMax) return result;
  }
}

Result<LogPosition> LogView::readPage(uint64_t page, MutableBytes into) const {
  WALSHIP_ASSERT(into.size() == geometry_.pageBytes);
  if (page < firstPage()) return trimmed(page);
  return settled<LogPosition>(page, [&](uint64_t written) { return tryReadPage(page, written, into); });
}

Result<LogPosition> LogView::tryReadPage(uint64_t page, uint64_t written, MutableBytes into) const {
  const uint64_t pageStart = page * geometry_.pageBytes;
  if (page > kPageNumberMax || pageStart >= written) {
    return makeError("WALSHIP_ERR_LOG_POSITION", "page " + std::to_string(page) + " is not written yet");
  }
  const std::string file = table_.pathOf(page);
  const uint64_t offset = table_.offsetOf(page);
  auto fd = openFile(file, O_RDONLY);
  if (!fd) return fd.error();
  if (auto read = readAt(fd.value().get(), into, offset, file); !read) return read.error();
  auto walked = walkPage(into, geometry_, page);
  if (!walked) return corruptAt(file, offset, walked.error());
  const PageWalk& walk = walked.value();
  // What write() has finished must be there and valid; behind it a write may be going on.
  const bool finished = written - pageStart >= geometry_.pageBytes;
  if (!walk.clean && (finished || pageStart + walk.end.offset < written)) {
    return corruptAt(file, offset, walk.problem);
  }
  const auto framesLost = [&] {
    Error problem =
        makeError("WALSHIP_ERR_LOG_CORRUPT", "frames are missing behind LSN " + std::to_string(walk.end.lsn));
    problem.offset = walk.end.offset;
    return corruptAt(file, offset, problem);
  };
  if (!finished) {
    if (pageStart + walk.end.offset < written) return framesLost();
    return walk.end;
  }
  if (page == lastPageOf(written)) return walk.end;
  const std::string nextFile = table_.pathOf(page + 1);
  if (nextFile != file) {
    fd = openFile(nextFile, O_RDONLY);
    if (!fd) return fd.error();
  }
  auto next = readPageHeader(fd.value().get(), nextFile, table_.offsetOf(page + 1), geometry_, page + 1);
  if (!next) return next.error();
  if (next.value().firstLsn != walk.end.lsn || next.value().parent != walk.end.headerChecksum) {
    return framesLost();
  }
  return walk.end;
}

Result<uint64_t> LogView::pageOf(uint64_t lsn) const {
  const auto gone = [&] {
    return makeError("WALSHIP_ERR_LOG_TRIMMED", "LSN " + std::to_string(lsn) +
                                                    " is no longer in the log: it begins at LSN " +
                                                    std::to_string(firstLsn()));
  };
  for (;;) {
    const uint64_t first = firstPage();
    if (lsn < firstLsn()) return gone();
    auto page = settled<uint64_t>(first, [&](uint64_t written) { return tryPageOf(lsn, written); });
    // Trimmed under the search: what is left may well hold `lsn`, or the search ended at the new first page without.
    if (!page && page.error().is("WALSHIP_ERR_LOG_TRIMMED") && first < firstPage()) continue;
    if (page && lsn < firstLsn()) return gone();
    return page;
  }
}

Result<uint64_t> LogView::tryPageOf(uint64_t lsn, uint64_t written) const {
  if (written == firstPage() * geometry_.pageBytes) return firstPage();
  const auto held = table_.holding(lsn);
  if (!held) return makeError("WALSHIP_ERR_LOG_POSITION", "the log is empty");
  const SegmentInfo& segment = *held;
  uint64_t low = segment.firstPage;
  uint64_t high = std::min(segment.firstPage + geometry_.segmentPages - 1, lastPageOf(written));
  if (low >= high) return std::min(low, high);
  auto fd = openFile(segment.file, O_RDONLY);
  if (!fd) return fd.error();
  while (low < high) {
    const uint64_t middle = low + (high - low + 1) / 2;
    auto header = readPageHeader(fd.value().get(), segment.file, table_.offsetOf(middle), geometry_, middle);
    if (!header) return header.error();
    if (header.value().firstLsn <= lsn) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// The page that held `lsn` may be cut away and written anew before it is read: then all is looked for again.
Result<LogPosition> LogView::positionAt(uint64_t lsn) const {
  for (int tries = 0; tries < kAttemptsMax; ++tries) {
    const uint64_t truncations = truncations_.load();
    auto position = tryPositionAt(lsn, truncations);
    if (position) return *position;
  }
  return makeError("WALSHIP_ERR_LOG_POSITION", "the log is being truncated again and again around LSN " + std::to_string(lsn));
}

std::optional<Result<LogPosition>> LogView::tryPositionAt(uint64_t lsn, uint64_t truncations) const {
  const auto unchanged = [&] { return truncations == truncations_.load(); };
  auto page = pageOf(lsn);
  if (!page) return page.error();
  {
    const std::lock_guard lock(originMutex_);
    if (empty() && origin_.page == page.value()) return origin_;
  }
  std::vector<std::byte> bytes(geometry_.pageBytes);
  auto end = readPage(page.value(), bytes);
  if (!unchanged()) return std::nullopt;
  if (!end) return end.error();
  const LogPosition boundary = boundaryAt(bytes, end.value().offset, lsn);
  if (boundary.offset > kPageHeaderBytes) return boundary;
  if (page.value() == firstPage()) {
    return LogPosition{boundary.lsn, boundary.headerChecksum, 0, boundary.page, 0};
  }
  auto before = readPage(page.value() - 1, bytes);
  if (!unchanged()) return std::nullopt;
  return before;
}

}  // namespace walship

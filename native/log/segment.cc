#include "log/segment.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>

#include "log/files.h"

namespace walship {

namespace {

constexpr std::string_view kSegmentSuffix = ".wal";
constexpr std::string_view kSparePrefix = "spare-";
constexpr std::string_view kDivergedPrefix = "diverged-";
constexpr std::string_view kUnfinishedSuffix = ".new";
// The last ones are the node's: its administration socket (src/node/admin.ts), and what src/consistency keeps.
constexpr std::array<std::string_view, 7> kOwnNames = {"lock",         "mark",    "epochs", "readers",
                                                       "walship.sock", "journal", "scrub"};

std::optional<uint64_t> parseNumber(std::string_view text, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Only the one spelling that segmentPath() gives.
std::optional<uint64_t> parseSegmentName(std::string_view name) {
  if (name.size() != 16 + kSegmentSuffix.size() || !name.ends_with(kSegmentSuffix)) return std::nullopt;
  const auto page = parseNumber(name.substr(0, 16), 16);
  if (!page || hex16(*page) != name.substr(0, 16) || *page > kPageNumberMax) return std::nullopt;
  return page;
}

}  // namespace

std::string segmentPath(const std::string& dir, uint64_t firstPage) {
  return dir + "/" + hex16(firstPage) + std::string(kSegmentSuffix);
}

std::string sparePath(const std::string& dir, uint64_t number) {
  return dir + "/" + std::string(kSparePrefix) + std::to_string(number);
}

std::string divergedPath(const std::string& dir, uint64_t epoch, uint64_t lsn) {
  const std::string stem =
      dir + "/" + std::string(kDivergedPrefix) + std::to_string(epoch) + "-" + hex16(lsn);
  std::string path = stem + std::string(kSegmentSuffix);
  struct stat found {};
  for (uint64_t copy = 2; ::stat(path.c_str(), &found) == 0; ++copy) {
    path = stem + "-" + std::to_string(copy) + std::string(kSegmentSuffix);
  }
  return path;
}

Result<DirectoryListing> listDirectory(const std::string& dir) {
  const auto closer = [](DIR* open) { ::closedir(open); };
  const std::unique_ptr<DIR, decltype(closer)> open(::opendir(dir.c_str()), closer);
  if (!open) return ioError("cannot list", errno, dir);
  DirectoryListing listing;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(open.get());
    if (entry == nullptr) break;
    const std::string_view name(entry->d_name);
    if (name == "." || name == ".." || std::ranges::find(kOwnNames, name) != kOwnNames.end()) continue;
    const std::string path = dir + "/" + std::string(name);
    if (const auto page = parseSegmentName(name)) {
      listing.segments.push_back({*page, path});
    } else if (name == "epochs.new" || name == "readers.new" ||
               (name.starts_with(kDivergedPrefix) && name.ends_with(kUnfinishedSuffix))) {
      listing.unfinished.push_back(path);
    } else if (name.starts_with(kDivergedPrefix) && name.ends_with(kSegmentSuffix)) {
      listing.diverged.push_back(path);
    } else if (const auto number = name.starts_with(kSparePrefix)
                                       ? parseNumber(name.substr(kSparePrefix.size()), 10)
                                       : std::nullopt) {
      listing.spares.push_back(path);
      listing.nextSpare = std::max(listing.nextSpare, *number + 1);
    } else {
      listing.strays.push_back(path);
    }
  }
  if (errno != 0) return ioError("cannot list", errno, dir);
  std::ranges::sort(listing.segments, {}, &SegmentFile::firstPage);
  std::ranges::sort(listing.diverged);
  std::ranges::sort(listing.strays);
  std::ranges::sort(listing.spares);
  return listing;
}

Result<PageHeader> readPageHeader(int fd, const std::string& file, uint64_t offset, const Geometry& geometry,
                                  uint64_t pageNumber) {
  std::array<std::byte, kPageHeaderBytes> bytes;
  if (auto read = readAt(fd, bytes, offset, file); !read) return read.error();
  auto header = checkPageHeader(bytes, geometry, pageNumber);
  if (!header) return corruptAt(file, offset, header.error());
  return header;
}

Error corruptAt(const std::string& file, uint64_t pageOffset, const Error& problem) {
  const auto offset = static_cast<int64_t>(pageOffset) + std::max<int64_t>(problem.offset, 0);
  if (problem.is("WALSHIP_ERR_PAGE_FOREIGN")) {
    return fileError("WALSHIP_ERR_LOG_FOREIGN",
                     file + " (offset " + std::to_string(offset) + "): " + problem.message +
                         "; this is not this node's log: correct the directory or the settings",
                     file, offset);
  }
  return fileError(
      "WALSHIP_ERR_LOG_CORRUPT",
      file + " is damaged at offset " + std::to_string(offset) + ": " + problem.message +
          "; `walship log verify` lists all damage, a fresh directory restores this node from another "
          "one",
      file, offset);
}

void SegmentTable::add(const SegmentInfo& segment) {
  const std::lock_guard lock(mutex_);
  WALSHIP_ASSERT(segments_.empty() ||
                 segments_.back().firstPage + geometry_.segmentPages == segment.firstPage);
  segments_.push_back(segment);
}

SegmentInfo SegmentTable::removeFirst() {
  const std::lock_guard lock(mutex_);
  WALSHIP_ASSERT(!segments_.empty());
  SegmentInfo first = std::move(segments_.front());
  segments_.erase(segments_.begin());
  return first;
}

SegmentInfo SegmentTable::removeLast() {
  const std::lock_guard lock(mutex_);
  WALSHIP_ASSERT(!segments_.empty());
  SegmentInfo last = std::move(segments_.back());
  segments_.pop_back();
  return last;
}

std::vector<SegmentInfo> SegmentTable::list() const {
  const std::lock_guard lock(mutex_);
  return segments_;
}

size_t SegmentTable::size() const {
  const std::lock_guard lock(mutex_);
  return segments_.size();
}

std::optional<SegmentInfo> SegmentTable::holding(uint64_t lsn) const {
  const std::lock_guard lock(mutex_);
  if (segments_.empty()) return std::nullopt;
  auto after = std::ranges::upper_bound(segments_, lsn, {}, &SegmentInfo::firstLsn);
  return after == segments_.begin() ? segments_.front() : *std::prev(after);
}

}  // namespace walship

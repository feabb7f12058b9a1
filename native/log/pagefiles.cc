#include "log/pagefiles.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>

#include "log/files.h"

namespace walship {

namespace {

// The header at the beginning of a file, whatever log it is of.
Result<PageHeader> firstHeader(const std::string& path) {
  auto fd = openFile(path, O_RDONLY);
  if (!fd) return fd.error();
  std::array<std::byte, kPageHeaderBytes> bytes;
  if (auto read = readAt(fd.value().get(), bytes, 0, path); !read) return read.error();
  auto header = parsePageHeader(bytes);
  if (!header) return corruptAt(path, 0, header.error());
  return header;
}

Geometry geometryOf(const PageHeader& header) {
  return {uint32_t{1} << header.pageShift, header.segmentPages, header.clusterTag};
}

}  // namespace

Result<PageFiles> PageFiles::open(const std::string& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) {
    if (errno != ENOENT && errno != ENOTDIR) return ioError("cannot look at", errno, path);
    return fileError("WALSHIP_ERR_LOG_NOT_FOUND",
                     path + " does not exist; name a log directory or a diverged-… file", path);
  }
  PageFiles result;
  result.path_ = path;
  result.directory_ = S_ISDIR(found.st_mode);
  if (!result.directory_) {
    auto header = firstHeader(path);
    if (!header) return header.error();
    result.geometry_ = geometryOf(header.value());
    const auto bytes = static_cast<uint64_t>(found.st_size);
    result.files_.push_back({path, header.value().page, bytes / result.geometry_.pageBytes, bytes});
  } else {
    auto listing = listDirectory(path);
    if (!listing) return listing.error();
    result.listing_ = listing.take();
    auto mark = MarkFile::load(path, &result.markDamaged_);
    if (!mark) return mark.error();
    result.mark_ = mark.take();
    if (auto geometry = result.findGeometry(); !geometry) return geometry.error();
    for (const SegmentFile& segment : result.listing_.segments) {
      if (result.mark_ && segment.firstPage < result.mark_->firstPage) continue;
      auto size = sizeOf(segment.file);
      if (!size) return size.error();
      const uint64_t pages = size.value() / result.geometry_.pageBytes;
      result.files_.push_back({segment.file, segment.firstPage,
                               std::min<uint64_t>(pages, result.geometry_.segmentPages), size.value()});
    }
  }
  result.page_.resize(result.geometry_.pageBytes);
  return result;
}

Result<void> PageFiles::findGeometry() {
  if (mark_) {
    geometry_ = mark_->geometry;
    return {};
  }
  std::optional<Error> problem;
  for (const SegmentFile& segment : listing_.segments) {
    auto header = firstHeader(segment.file);
    if (header) {
      geometry_ = geometryOf(header.value());
      return {};
    }
    if (!problem) problem = header.error();
  }
  if (problem) return *problem;
  return fileError("WALSHIP_ERR_LOG_NOT_FOUND",
                   path_ + " holds no log; name a log directory or a diverged-… file", path_);
}

const PageFiles::File* PageFiles::find(uint64_t page) const {
  for (const File& file : files_) {
    if (page >= file.firstPage && page - file.firstPage < file.pages) return &file;
  }
  return nullptr;
}

Result<void> PageFiles::read(const File& file, uint64_t page, MutableBytes into) {
  if (file.path != openPath_) {
    auto fd = openFile(file.path, O_RDONLY);
    if (!fd) return fd.error();
    open_ = fd.take();
    openPath_ = file.path;
  }
  return readAt(open_.get(), into, offsetOf(file, page), file.path);
}

Result<PageHeader> PageFiles::header(const File& file, uint64_t page) {
  std::array<std::byte, kPageHeaderBytes> bytes;
  if (auto got = read(file, page, bytes); !got) return got.error();
  auto checked = checkPageHeader(bytes, geometry_, page);
  if (!checked) return corruptAt(file.path, offsetOf(file, page), checked.error());
  return checked;
}

Result<PageWalk> PageFiles::walk(const File& file, uint64_t page) {
  if (auto got = read(file, page, page_); !got) return got.error();
  auto walked = walkPage(page_, geometry_, page);
  if (!walked) return corruptAt(file.path, offsetOf(file, page), walked.error());
  if (!walked.value().clean) {
    walked.value().problem = corruptAt(file.path, offsetOf(file, page), walked.value().problem);
  }
  return walked;
}

}  // namespace walship

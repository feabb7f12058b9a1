// Upkeep of complete pages on disk, while the log is written further on.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/checksum.h"
#include "log/files.h"
#include "log/implementation.h"

namespace walship {

namespace {

// Out of the kernel's memory, so that what is read is what the disk has. It keeps what is not synced; on tmpfs there is no
// disk, and nothing is done.
void forgetCached(int fd, uint64_t offset, uint64_t length) {
  static_cast<void>(::posix_fadvise(fd, static_cast<off_t>(offset), static_cast<off_t>(length), POSIX_FADV_DONTNEED));
}

}  // namespace

void LogView::readRaw(uint64_t page, uint32_t offset, MutableBytes into) const {
  std::ranges::fill(into, std::byte{0});
  const uint64_t at = table_.offsetOf(page) + offset;
  auto fd = openFile(table_.pathOf(page), O_RDONLY);
  if (!fd) return;
  if (offset == 0) forgetCached(fd.value().get(), at, geometry_.pageBytes);
  for (size_t done = 0; done < into.size();) {
    const ssize_t count =
        ::pread(fd.value().get(), into.data() + done, into.size() - done, static_cast<off_t>(at + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;  // a bad place of the disk, or the file's end
    done += static_cast<size_t>(count);
  }
}

Result<void> Log::Implementation::repairPage(uint64_t page, Bytes bytes, uint64_t replaces) {
  if (failure_) return *failure_;
  WALSHIP_ASSERT(bytes.size() == geometry_.pageBytes);
  if (page < view_.firstPage() || page > kPageNumberMax || (page + 1) * geometry_.pageBytes > synced_) {
    return makeError("WALSHIP_ERR_LOG_POSITION", "page " + std::to_string(page) + " is not a complete page of the log any more");
  }
  const auto walked = walkPage(bytes, geometry_, page);
  if (!walked) return walked.error();
  if (!walked.value().clean) return walked.value().problem;

  std::vector<std::byte> there(geometry_.pageBytes);
  view_.readRaw(page, 0, there);
  if (checksum(there) != replaces) {
    return makeError("WALSHIP_ERR_PAGE_CHANGED",
                     "page " + std::to_string(page) + " is no longer what was judged; nothing was written, it is looked at again");
  }
  const std::string file = view_.table().pathOf(page);
  const uint64_t offset = view_.table().offsetOf(page);
  auto fd = openFile(file, O_RDWR);
  if (!fd) return fd.error();
  if (auto put = writeAt(fd.value().get(), bytes, offset, file); !put) return put;
  if (auto synced = syncFile(fd.value().get(), file); !synced) return synced;
  view_.readRaw(page, 0, there);
  if (!std::ranges::equal(there, bytes)) {
    return fileError("WALSHIP_ERR_LOG_IO",
                     file + " does not hold what was written at offset " + std::to_string(offset) +
                         ": the disk is failing; replace it, and restore this node from another one",
                     file, static_cast<int64_t>(offset));
  }
  return {};
}

Result<std::vector<ShortSegment>> Log::Implementation::shortSegments(bool grow) {
  if (failure_) return *failure_;
  std::vector<ShortSegment> found;
  for (const SegmentInfo& segment : view_.table().list()) {
    struct stat now {};
    const bool there = ::stat(segment.file.c_str(), &now) == 0;
    const uint64_t bytes = there ? static_cast<uint64_t>(now.st_size) : 0;
    if (bytes >= geometry_.segmentBytes()) continue;
    found.push_back({segment.file, segment.firstPage, bytes});
    if (!grow) continue;
    auto fd = openFile(segment.file, O_RDWR | O_CREAT);
    if (!fd) return fd.error();
    if (::ftruncate(fd.value().get(), static_cast<off_t>(geometry_.segmentBytes())) != 0 ||
        ::fsync(fd.value().get()) != 0) {
      return ioError("cannot give back its size to", errno, segment.file);
    }
    if (there) continue;
    if (auto synced = syncDirectory(settings_.dir); !synced) return synced.error();
    if (!tail_.fd.valid() || segment.firstPage != tail_.firstPage) continue;
    // The one being written was removed under its name: what it held moves over, and what follows goes there, too.
    std::vector<std::byte> page(geometry_.pageBytes);
    for (uint64_t at = 0; at < geometry_.segmentBytes(); at += page.size()) {
      if (auto read = readAt(tail_.fd.get(), page, at, segment.file); !read) return read.error();
      if (auto put = writeAt(fd.value().get(), page, at, segment.file); !put) return put.error();
    }
    if (auto synced = syncFile(fd.value().get(), segment.file); !synced) return synced.error();
    tail_.fd = fd.take();
    tail_.dirty = true;
  }
  return found;
}

}  // namespace walship

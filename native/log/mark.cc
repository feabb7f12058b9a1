#include "log/mark.h"

#include <sys/stat.h>

#include <array>
#include <cstddef>

#include "base/checksum.h"
#include "log/files.h"

namespace walship {

namespace {

constexpr uint32_t kMarkMagic = 0x314d5357;  // "WSM1"
constexpr uint64_t kSlotBytes = 4096;
constexpr uint16_t kClosed = 1;

struct Slot {
  uint32_t magic;
  uint16_t version;
  uint16_t flags;
  uint64_t sequence;  // slot = sequence % 2
  uint64_t lsn;
  uint64_t headerChecksum;
  uint64_t epoch;
  uint64_t page;
  uint32_t offset;
  uint32_t pageBytes;
  uint32_t segmentPages;
  uint32_t reserved;
  uint64_t clusterTag;
  uint64_t firstPage;
  uint64_t checksum;
};
static_assert(sizeof(Slot) == 88);

uint64_t checksumOf(const Slot& slot) { return checksum(bytesOf(slot).first(offsetof(Slot, checksum))); }

bool valid(const Slot& slot, uint64_t index) {
  return slot.magic == kMarkMagic && slot.version == kFormatVersion && (slot.flags & ~kClosed) == 0 &&
         slot.sequence % 2 == index && slot.reserved == 0 && slot.checksum == checksumOf(slot) &&
         checkGeometry({slot.pageBytes, slot.segmentPages, slot.clusterTag}).ok() &&
         slot.page <= kPageNumberMax && slot.firstPage <= slot.page &&
         slot.firstPage % slot.segmentPages == 0 && slot.offset <= slot.pageBytes &&
         (slot.offset >= kPageHeaderBytes || slot.offset == 0) &&
         (slot.offset != 0 || slot.page == slot.firstPage);
}

struct Slots {
  std::array<std::optional<Slot>, 2> slots;

  const Slot* newest() const {
    if (!slots[0]) return slots[1] ? &*slots[1] : nullptr;
    if (!slots[1]) return &*slots[0];
    return slots[0]->sequence > slots[1]->sequence ? &*slots[0] : &*slots[1];
  }
};

Result<Slots> readSlots(int fd, const std::string& file) {
  Slots found;
  for (uint64_t index = 0; index < 2; ++index) {
    Slot slot{};
    auto read = readAt(fd, std::as_writable_bytes(std::span(&slot, 1)), index * kSlotBytes, file);
    if (!read && !read.error().is("WALSHIP_ERR_LOG_CORRUPT")) {
      return read.error();  // a short file is a lost slot
    }
    if (read && valid(slot, index)) found.slots[index] = slot;
  }
  return found;
}

}  // namespace

Result<std::optional<Mark>> MarkFile::load(const std::string& dir, bool* damaged) {
  *damaged = false;
  const std::string file = dir + "/mark";
  struct stat state {};
  if (::stat(file.c_str(), &state) != 0 && errno == ENOENT) return std::optional<Mark>{};
  auto fd = openFile(file, O_RDONLY);
  if (!fd) return fd.error();
  auto slots = readSlots(fd.value().get(), file);
  if (!slots) return slots.error();
  const Slot* newest = slots.value().newest();
  if (newest == nullptr) {
    *damaged = true;
    return std::optional<Mark>{};
  }
  Mark mark;
  mark.position = {newest->lsn, newest->headerChecksum, newest->epoch, newest->page, newest->offset};
  mark.firstPage = newest->firstPage;
  mark.closed = (newest->flags & kClosed) != 0;
  mark.geometry = {newest->pageBytes, newest->segmentPages, newest->clusterTag};
  return std::optional<Mark>{mark};
}

Result<MarkFile> MarkFile::open(const std::string& dir) {
  MarkFile result;
  result.file_ = dir + "/mark";
  auto fd = openFile(result.file_, O_RDWR | O_CREAT);
  if (!fd) return fd.error();
  result.fd_ = fd.take();
  auto slots = readSlots(result.fd_.get(), result.file_);
  if (!slots) return slots.error();
  if (const Slot* newest = slots.value().newest()) result.sequence_ = newest->sequence;
  return result;
}

Result<void> MarkFile::write(const Mark& mark) {
  Slot slot{};
  slot.magic = kMarkMagic;
  slot.version = kFormatVersion;
  slot.flags = mark.closed ? kClosed : uint16_t{0};
  slot.sequence = sequence_ + 1;
  slot.lsn = mark.position.lsn;
  slot.headerChecksum = mark.position.headerChecksum;
  slot.epoch = mark.position.epoch;
  slot.page = mark.position.page;
  slot.offset = mark.position.offset;
  slot.pageBytes = mark.geometry.pageBytes;
  slot.segmentPages = mark.geometry.segmentPages;
  slot.clusterTag = mark.geometry.clusterTag;
  slot.firstPage = mark.firstPage;
  slot.checksum = checksumOf(slot);
  WALSHIP_ASSERT(valid(slot, slot.sequence % 2));
  auto written = writeAt(fd_.get(), bytesOf(slot), slot.sequence % 2 * kSlotBytes, file_);
  if (written) ++sequence_;
  return written;
}

Result<void> MarkFile::sync() { return syncFile(fd_.get(), file_); }

Result<void> MarkFile::writeDurably(const Mark& mark) {
  if (auto written = write(mark); !written) return written;
  if (auto synced = sync(); !synced) return synced;
  return write(mark);
}

}  // namespace walship

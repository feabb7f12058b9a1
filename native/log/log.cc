#include "log/log.h"

#include <fcntl.h>

#include <algorithm>
#include <utility>

#include "log/files.h"
#include "log/implementation.h"

namespace walship {

namespace {

// Segments that may wait for a sync, each with its file open, when the caller seldom syncs.
constexpr size_t kUnsyncedSegmentsMax = 8;

Result<Fd> lockDirectory(const std::string& dir) {
  const std::string file = dir + "/lock";
  auto fd = openFile(file, O_RDWR | O_CREAT);
  if (!fd) return fd;
  struct flock whole {};
  whole.l_type = F_WRLCK;
  if (::fcntl(fd.value().get(), F_OFD_SETLK, &whole) != 0) {
    if (errno != EAGAIN && errno != EACCES) return ioError("cannot lock", errno, file);
    return fileError("WALSHIP_ERR_LOG_LOCKED",
                     dir +
                         " is open in another process (or twice in this one); stop that one, or use another "
                         "directory",
                     file);
  }
  return fd;
}

}  // namespace

Result<void> Log::Implementation::open(RecoveryReport* report) {
  if (auto checked = checkGeometry(geometry_); !checked) return checked;
  const std::string& dir = settings_.dir;
  if (auto made = makeDirectory(dir); !made) return made;
  auto locked = lockDirectory(dir);
  if (!locked) return locked.error();
  lock_ = locked.take();
  auto listing = listDirectory(dir);
  if (!listing) return listing.error();
  bool damaged = false;
  auto mark = MarkFile::load(dir, &damaged);
  if (!mark) return mark.error();
  auto recovered = recover(dir, listing.value(), geometry_, mark.value(), damaged, settings_.startLsn);
  if (!recovered) return recovered.error();
  const Recovery& found = recovered.value();

  for (const std::string& file : listing.value().unfinished) {
    if (auto removed = removeFile(file); !removed) return removed;
  }
  auto markFile = MarkFile::open(dir);
  if (!markFile) return markFile.error();
  markFile_ = markFile.take();
  spares_ = std::make_unique<Spares>(SpareSettings{dir, geometry_.segmentBytes(), settings_.spareSegments,
                                                   settings_.zeroFill, listing.value().nextSpare},
                                     listing.value().spares);
  view_.begin(found.origin, found.tail);
  for (const SegmentInfo& segment : found.segments) view_.table().add(segment);
  if (found.tail.offset != 0) {
    if (auto opened = openTail(found.tail.page); !opened) return opened;
  }
  if (auto settled = settle(found); !settled) return settled;
  synced_ = view_.written();
  report->tail = found.tail;
  report->discardedBytes = found.discardedBytes;
  report->note = found.note;
  return {};
}

// Makes what recovery found the durable truth: nothing incomplete stays behind the tail that a later recovery
// could take for a continuation, and nothing below it is only in the kernel's memory.
Result<void> Log::Implementation::settle(const Recovery& found) {
  if (!found.clean && !found.fresh) {
    for (const SegmentInfo& segment : found.segments) {
      if (segment.firstPage + geometry_.segmentPages <= found.durablePage) continue;
      auto fd = openFile(segment.file, O_RDWR);
      if (!fd) return fd.error();
      if (auto synced = syncFile(fd.value().get(), segment.file); !synced) return synced;
    }
    if (auto cut = cutBehind(found.tail); !cut) return cut;
  }
  if (found.fresh) {
    // Spares of a log that is gone hold pages that could pass for new ones.
    if (auto cleared = spares_->clear(); !cleared) return cleared;
  }
  if (auto removed = removeBehind(found.behind); !removed) return removed;
  if (auto marked = writeMark(markAt(found.tail), true); !marked) return marked;
  for (const SegmentFile& left : found.below) {
    if (auto given = spares_->give(left.file); !given) return given;
  }
  return syncDirectory(settings_.dir);
}

Result<void> Log::Implementation::openTail(uint64_t page) {
  const std::string file = view_.table().pathOf(page);
  auto fd = openFile(file, O_RDWR);
  if (!fd) return fd.error();
  tail_ = {fd.take(), file, view_.table().firstPageOf(page), false};
  return {};
}

Result<void> Log::Implementation::write(uint64_t page, uint32_t offset, Bytes bytes) {
  if (failure_) return *failure_;
  const uint64_t pageStart = page * geometry_.pageBytes;
  const uint64_t written = view_.written();
  WALSHIP_ASSERT(!bytes.empty() && bytes.size() <= geometry_.pageBytes - offset && page <= kPageNumberMax);
  WALSHIP_ASSERT(page >= view_.firstPage() && pageStart <= roundUp(written, geometry_.pageBytes));
  WALSHIP_ASSERT(offset == 0 ? bytes.size() >= kPageHeaderBytes : pageStart + offset <= written);
  if (pageStart > written) {
    // The page before is finished here: zero behind its last frame, whatever a recycled file holds there.
    const uint64_t from = written % geometry_.pageBytes;
    const std::vector<std::byte> zeros(geometry_.pageBytes - from);
    auto filled = writeAt(tail_.fd.get(), zeros, view_.table().offsetOf(page - 1) + from, tail_.file);
    if (!filled) return failed(filled.error());
    tail_.dirty = true;
    view_.grow(pageStart);
  }
  if (!tail_.fd.valid() || page >= tail_.firstPage + geometry_.segmentPages) {
    auto rolled = rollOver(page, loadAt<PageHeader>(bytes, 0).firstLsn);
    if (!rolled) return failed(rolled.error());
  }
  WALSHIP_ASSERT(page >= tail_.firstPage);
  auto put = writeAt(tail_.fd.get(), bytes, view_.table().offsetOf(page) + offset, tail_.file);
  if (!put) return failed(put.error());
  tail_.dirty = true;
  if (pageStart + offset + bytes.size() > view_.written()) view_.grow(pageStart + offset + bytes.size());
  return {};
}

// The new segment is durable in the directory before anything is written to it: so a crash never leaves a gap
// in the sequence of files, and a gap is always an error.
Result<void> Log::Implementation::rollOver(uint64_t page, uint64_t firstLsn) {
  auto spare = spares_->take();
  if (!spare) return spare.error();
  const std::string file = view_.table().pathOf(page);
  if (auto renamed = renameFile(spare.value(), file); !renamed) return renamed;
  if (auto synced = syncDirectory(settings_.dir); !synced) return synced;
  if (auto synced = markFile_->sync(); !synced) return synced;
  if (tail_.fd.valid() && tail_.dirty) older_.push_back(std::move(tail_));
  if (older_.size() >= kUnsyncedSegmentsMax) {
    if (auto synced = sync(); !synced) return synced;
  }
  if (auto opened = openTail(page); !opened) return opened;
  view_.table().add({view_.table().firstPageOf(page), firstLsn, file});
  return {};
}

Result<void> Log::Implementation::sync() {
  if (failure_) return *failure_;
  const uint64_t written = view_.written();
  auto synced = syncSegments();
  if (!synced) {
    // Not even a full disk can be tried again here: the kernel may have dropped what it could not write.
    failure_ = synced.error();
    failure_->code = "WALSHIP_ERR_LOG_IO";
    return *failure_;
  }
  synced_ = written;
  return {};
}

Result<void> Log::Implementation::syncSegments() {
  for (const OpenSegment& segment : older_) {
    if (auto synced = syncFile(segment.fd.get(), segment.file); !synced) return synced;
  }
  older_.clear();
  if (tail_.dirty) {
    if (auto synced = syncFile(tail_.fd.get(), tail_.file); !synced) return synced;
    tail_.dirty = false;
  }
  return {};
}

Result<void> Log::Implementation::mark(const LogPosition& position, bool durable) {
  if (failure_) return *failure_;
  WALSHIP_ASSERT(view_.byteOf(position) <= synced_);
  return noted(writeMark(markAt(position), durable));
}

Result<void> Log::Implementation::writeMark(const Mark& mark, bool durable) {
  auto written = durable ? markFile_->writeDurably(mark) : markFile_->write(mark);
  if (written) marked_ = mark.position;
  return written;
}

Result<void> Log::Implementation::startAt(const LogPosition& position) {
  if (failure_) return *failure_;
  if (!view_.empty() || position.offset != 0 || position.page > kPageNumberMax ||
      position.page % geometry_.segmentPages != 0) {
    return makeError("WALSHIP_ERR_LOG_POSITION", "a log can only start at the first page of a segment (" +
                                                     std::to_string(geometry_.segmentPages) +
                                                     " pages each) and while it is empty, not at page " +
                                                     std::to_string(position.page));
  }
  // The log may have been further on before: its old pages, in recycled files, could pass for new ones.
  if (auto cleared = spares_->clear(); !cleared) return failed(cleared.error());
  view_.begin(position, position);
  synced_ = view_.written();
  return noted(writeMark(markAt(position), true));
}

Result<uint64_t> Log::Implementation::trimBelow(uint64_t lsn) {
  if (failure_) return *failure_;
  if (lsn <= view_.firstLsn() || view_.empty()) return view_.firstLsn();
  auto page = view_.pageOf(lsn);
  if (!page) return page;
  const uint64_t first = view_.table().firstPageOf(page.value());
  const uint64_t oldFirst = view_.firstPage();
  if (first <= oldFirst) return view_.firstLsn();
  if (marked_.page < first) {
    // Recovery starts at the mark, so it must lie in what stays; a caller that never syncs does not move it.
    if (auto synced = sync(); !synced) return synced.error();
    auto end = view_.positionAt(UINT64_MAX);
    if (!end) return failed(end.error());
    marked_ = end.value();
  }
  Mark mark = markAt(marked_);
  mark.firstPage = first;
  if (auto marked = writeMark(mark, true); !marked) return failed(marked.error());
  for (const SegmentInfo& segment : view_.table().list()) {
    if (segment.firstPage == first) view_.forgetBelow(first, segment.firstLsn);
  }
  for (uint64_t gone = oldFirst; gone < first; gone += geometry_.segmentPages) {
    if (auto given = spares_->give(view_.table().removeFirst().file); !given) return failed(given.error());
  }
  if (auto synced = syncDirectory(settings_.dir); !synced) return failed(synced.error());
  return view_.firstLsn();
}

Result<std::unique_ptr<Log>> Log::open(const LogSettings& settings, RecoveryReport* report) {
  auto implementation = std::make_unique<Implementation>(settings);
  if (auto opened = implementation->open(report); !opened) return opened.error();
  return std::unique_ptr<Log>(new Log(std::move(implementation)));
}

Log::Log(std::unique_ptr<Implementation> implementation) : implementation_(std::move(implementation)) {}
Log::~Log() = default;

const LogSettings& Log::settings() const { return implementation_->settings_; }
const Geometry& Log::geometry() const { return implementation_->geometry_; }
Result<void> Log::write(uint64_t page, uint32_t offset, Bytes bytes) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->write(page, offset, bytes);
}
Result<void> Log::sync() {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->sync();
}
Result<void> Log::mark(const LogPosition& position, bool durable) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->mark(position, durable);
}
Result<void> Log::startAt(const LogPosition& position) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->startAt(position);
}
Result<void> Log::truncate(const LogPosition& to, const LogPosition& oldTail) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->truncate(to, oldTail);
}
Result<uint64_t> Log::trimBelow(uint64_t lsn) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->trimBelow(lsn);
}
Result<void> Log::zeroTail(const LogPosition& tail) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->zeroTail(tail);
}
Result<void> Log::close(const LogPosition& tail) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->close(tail);
}

Result<void> Log::repairPage(uint64_t page, Bytes bytes, uint64_t replaces) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->repairPage(page, bytes, replaces);
}
Result<std::vector<ShortSegment>> Log::shortSegments(bool grow) {
  const std::lock_guard lock(implementation_->writing_);
  return implementation_->shortSegments(grow);
}

uint64_t Log::firstLsn() const { return implementation_->view_.firstLsn(); }
uint64_t Log::firstPage() const { return implementation_->view_.firstPage(); }
uint64_t Log::bytesOnDisk() const {
  return implementation_->view_.table().size() * geometry().segmentBytes() + implementation_->spareBytes();
}
std::vector<SegmentInfo> Log::segments() const { return implementation_->view_.table().list(); }
Result<LogPosition> Log::readPage(uint64_t page, MutableBytes into) const {
  return implementation_->view_.readPage(page, into);
}
Result<uint64_t> Log::pageOf(uint64_t lsn) const { return implementation_->view_.pageOf(lsn); }
Result<LogPosition> Log::positionAt(uint64_t lsn) const { return implementation_->view_.positionAt(lsn); }
void Log::readRaw(uint64_t page, uint32_t offset, MutableBytes into) const {
  implementation_->view_.readRaw(page, offset, into);
}

}  // namespace walship

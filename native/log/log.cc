#include "log/log.h"

#include <fcntl.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "log/files.h"
#include "log/mark.h"
#include "log/recovery.h"
#include "log/spares.h"
#include "log/view.h"

namespace walship {

namespace {

// Segments that may wait for a sync, each with its file open, when the caller seldom syncs.
constexpr size_t kUnsyncedSegmentsMax = 8;

bool samePlace(const LogPosition& a, const LogPosition& b) {
  return a.lsn == b.lsn && a.headerChecksum == b.headerChecksum && a.page == b.page && a.offset == b.offset;
}

Result<Fd> lockDirectory(const std::string& dir) {
  const std::string file = dir + "/lock";
  auto fd = openFile(file, O_RDWR | O_CREAT);
  if (!fd) return fd;
  struct flock whole {};
  whole.l_type = F_WRLCK;
  if (::fcntl(fd.value().get(), F_OFD_SETLK, &whole) != 0) {
    if (errno != EAGAIN && errno != EACCES) return ioError("cannot lock", errno, file);
    return fileError("WALSHIP_ERR_LOG_LOCKED",
                     dir + " is open in another process (or twice in this one); stop that one, or use another "
                           "directory",
                     file);
  }
  return fd;
}

}  // namespace

class Log::Implementation {
 public:
  explicit Implementation(const LogSettings& settings)
      : settings_(settings), geometry_(settings.geometry), view_(settings.dir, settings.geometry) {}

  Result<void> open(RecoveryReport* report);
  Result<void> write(uint64_t page, uint32_t offset, Bytes bytes);
  Result<void> sync();
  Result<void> mark(const LogPosition& position, bool durable);
  Result<void> startAt(const LogPosition& position);
  Result<void> truncate(const LogPosition& to, const LogPosition& oldTail);
  Result<uint64_t> trimBelow(uint64_t lsn);
  Result<void> zeroTail(const LogPosition& tail);
  Result<void> close(const LogPosition& tail);

  const LogSettings settings_;
  const Geometry geometry_;
  LogView view_;

  uint64_t spareBytes() const { return spares_ ? spares_->bytes() : 0; }

 private:
  struct OpenSegment {
    Fd fd;
    std::string file;
    uint64_t firstPage = 0;
    bool dirty = false;  // written since the last sync
  };

  // Every failure but a full disk is final: what is on disk is no longer known.
  Error failed(Error error) {
    if (!error.is("WALSHIP_ERR_DISK_FULL")) failure_ = error;
    return error;
  }
  template <class T>
  Result<T> noted(Result<T> result) {
    if (!result) return failed(result.error());
    return result;
  }
  Mark markAt(const LogPosition& position) const { return {position, view_.firstPage(), false, geometry_}; }

  Result<void> settle(const Recovery& found);
  Result<void> openTail(uint64_t page);
  Result<void> rollOver(uint64_t page, uint64_t firstLsn);
  Result<void> syncSegments();
  Result<void> writeMark(const Mark& mark, bool durable);
  Result<void> cutBehind(const LogPosition& tail);
  Result<void> destroyHeaders(int fd, const std::string& file, uint64_t from);
  Result<void> dropBehind(const std::vector<SegmentFile>& files);
  Result<void> saveCut(const LogPosition& to, const LogPosition& oldTail);
  Result<LogPosition> checkedTail(const LogPosition& tail);

  Fd lock_;
  std::optional<MarkFile> markFile_;
  LogPosition marked_;
  std::unique_ptr<Spares> spares_;
  OpenSegment tail_;                // the segment written to; no fd in an empty log
  std::vector<OpenSegment> older_;  // left behind by the tail, not synced yet
  uint64_t synced_ = 0;             // LogView::byteOf()
  std::optional<Error> failure_;
};

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

// Makes what recovery found the durable truth: nothing incomplete stays behind the tail that a later recovery could
// take for a continuation, and nothing below it is only in the kernel's memory.
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
  if (auto dropped = dropBehind(found.behind); !dropped) return dropped;
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

// The new segment is durable in the directory before anything is written to it: so a crash never leaves a gap in the
// sequence of files, and a gap is always an error.
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
    return makeError("WALSHIP_ERR_LOG_POSITION",
                     "a log can only start at the first page of a segment (" + std::to_string(geometry_.segmentPages) +
                         " pages each) and while it is empty, not at page " + std::to_string(position.page));
  }
  view_.begin(position, position);
  synced_ = view_.written();
  return noted(writeMark(markAt(position), true));
}

Result<uint64_t> Log::Implementation::trimBelow(uint64_t lsn) {
  if (failure_) return *failure_;
  if (lsn <= view_.firstLsn() || view_.empty()) return view_.firstLsn();
  auto page = view_.pageOf(lsn);
  if (!page) return page;
  // Never beyond the mark: recovery starts there.
  const uint64_t first = view_.table().firstPageOf(std::min(page.value(), marked_.page));
  const uint64_t oldFirst = view_.firstPage();
  if (first <= oldFirst) return view_.firstLsn();
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

Result<void> Log::Implementation::truncate(const LogPosition& to, const LogPosition& oldTail) {
  if (failure_) return *failure_;
  auto there = view_.positionAt(to.lsn);
  if (!there) return there.error();
  if (!samePlace(there.value(), to)) {
    return makeError("WALSHIP_ERR_LOG_POSITION", "LSN " + std::to_string(to.lsn) +
                                                     " is not where a frame ends, or not as positionAt() gives it: the "
                                                     "log cannot be cut there");
  }
  if (auto synced = sync(); !synced) return synced;
  if (auto saved = saveCut(to, oldTail); !saved) return failed(saved.error());
  if (auto marked = writeMark(markAt(to), true); !marked) return failed(marked.error());
  view_.shrink(to);
  synced_ = view_.written();
  if (auto cut = cutBehind(to); !cut) return failed(cut.error());
  std::vector<SegmentFile> behind;
  while (view_.table().size() > 0) {
    const SegmentInfo last = view_.table().list().back();
    if (to.offset != 0 && last.firstPage <= to.page) break;
    view_.table().removeLast();
    behind.insert(behind.begin(), SegmentFile{last.firstPage, last.file});
  }
  tail_ = {};
  if (auto dropped = dropBehind(behind); !dropped) return failed(dropped.error());
  if (to.offset != 0) return noted(openTail(to.page));
  return {};
}

// Page images from the page of the cut to the end of the log, zero behind the last frame.
Result<void> Log::Implementation::saveCut(const LogPosition& to, const LogPosition& oldTail) {
  if (view_.written() <= view_.byteOf(to)) return {};
  const std::string file = divergedPath(settings_.dir, oldTail.epoch, to.lsn);
  const std::string fresh = file + ".new";
  auto out = openFile(fresh, O_WRONLY | O_CREAT | O_TRUNC);
  if (!out) return out.error();
  std::vector<std::byte> page(geometry_.pageBytes);
  uint64_t at = 0;
  Result<void> saved;
  for (uint64_t number = to.page; saved && number <= view_.lastPage(); ++number, at += page.size()) {
    const std::string from = view_.table().pathOf(number);
    auto fd = openFile(from, O_RDONLY);
    if (!fd) return fd.error();
    saved = readAt(fd.value().get(), page, view_.table().offsetOf(number), from);
    if (number == view_.lastPage()) {
      const size_t used = view_.written() - number * geometry_.pageBytes;
      std::memset(page.data() + used, 0, page.size() - used);
    }
    if (saved) saved = writeAt(out.value().get(), page, at, fresh);
  }
  if (saved) saved = syncFile(out.value().get(), fresh);
  if (saved) saved = renameFile(fresh, file);
  if (saved) return syncDirectory(settings_.dir);
  static_cast<void>(removeFile(fresh).ok());  // the failure itself is what the caller must hear of
  return saved;
}

// Zeroes the rest of the tail's page, then the headers of the pages behind it in the same segment.
Result<void> Log::Implementation::cutBehind(const LogPosition& tail) {
  if (tail.offset == 0) return {};
  const std::string file = view_.table().pathOf(tail.page);
  auto fd = openFile(file, O_RDWR);
  if (!fd) return fd.error();
  const uint64_t at = view_.table().offsetOf(tail.page) + tail.offset;
  if (auto zeroed = zeroAt(fd.value().get(), at, geometry_.pageBytes - tail.offset, file); !zeroed) return zeroed;
  if (auto synced = syncFile(fd.value().get(), file); !synced) return synced;
  return destroyHeaders(fd.value().get(), file, tail.page + 1);
}

// Headers of the pages from `from` to the end of its segment, where they are in their place: headers of old pages in a
// recycled file lead nowhere. Synced.
Result<void> Log::Implementation::destroyHeaders(int fd, const std::string& file, uint64_t from) {
  for (uint64_t page = from; view_.table().pathOf(page) == file; ++page) {
    const uint64_t offset = view_.table().offsetOf(page);
    auto header = readPageHeader(fd, file, offset, geometry_, page);
    if (!header && header.error().is("WALSHIP_ERR_LOG_IO")) return header.error();
    if (!header) continue;
    if (auto zeroed = zeroAt(fd, offset, kPageHeaderBytes, file); !zeroed) return zeroed;
  }
  return syncFile(fd, file);
}

Result<void> Log::Implementation::dropBehind(const std::vector<SegmentFile>& files) {
  if (files.empty()) return {};
  for (const SegmentFile& segment : files) {
    auto fd = openFile(segment.file, O_RDWR);
    if (!fd) return fd.error();
    auto destroyed = destroyHeaders(fd.value().get(), segment.file, segment.firstPage);
    if (!destroyed) return destroyed;
  }
  // The last one first: a crash in between leaves no gap.
  for (auto segment = files.rbegin(); segment != files.rend(); ++segment) {
    if (auto given = spares_->give(segment->file); !given) return given;
  }
  return syncDirectory(settings_.dir);
}

// The end of the log as positionAt() gives it, if that is where the caller thinks it is.
Result<LogPosition> Log::Implementation::checkedTail(const LogPosition& tail) {
  auto end = view_.positionAt(UINT64_MAX);
  if (!end) return end;
  if (end.value().lsn != tail.lsn || end.value().headerChecksum != tail.headerChecksum) {
    return makeError("WALSHIP_ERR_LOG_POSITION", "the log ends at LSN " + std::to_string(end.value().lsn) +
                                                     ", not at LSN " + std::to_string(tail.lsn));
  }
  return end;
}

Result<void> Log::Implementation::zeroTail(const LogPosition& tail) {
  if (failure_) return *failure_;
  auto end = checkedTail(tail);
  if (!end) return end.error();
  if (!tail_.fd.valid()) return {};
  const LogPosition& last = end.value();
  std::vector<SegmentFile> behind;
  if (last.offset == 0 || tail_.firstPage > last.page) {
    // Only a page header stands in the last segment.
    behind.push_back({tail_.firstPage, tail_.file});
    view_.table().removeLast();
    tail_ = {};
    if (last.offset != 0) {
      if (auto opened = openTail(last.page); !opened) return failed(opened.error());
    }
  }
  view_.shrink(last);
  if (tail_.fd.valid()) {
    const uint64_t from = view_.table().offsetOf(last.page) + last.offset;
    auto zeroed = zeroAt(tail_.fd.get(), from, geometry_.segmentBytes() - from, tail_.file);
    if (!zeroed) return failed(zeroed.error());
    tail_.dirty = true;
  }
  return noted(dropBehind(behind));
}

Result<void> Log::Implementation::close(const LogPosition& tail) {
  if (auto zeroed = zeroTail(tail); !zeroed) return zeroed;
  if (auto synced = sync(); !synced) return synced;
  auto end = view_.positionAt(UINT64_MAX);
  if (!end) return end.error();
  Mark mark = markAt(end.value());
  mark.closed = true;
  if (auto marked = writeMark(mark, true); !marked) return failed(marked.error());
  spares_.reset();
  markFile_.reset();
  lock_.reset();
  failure_ = makeError("WALSHIP_ERR_LOG_CLOSED", "the log is closed");
  return {};
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
  return implementation_->write(page, offset, bytes);
}
Result<void> Log::sync() { return implementation_->sync(); }
Result<void> Log::mark(const LogPosition& position, bool durable) { return implementation_->mark(position, durable); }
Result<void> Log::startAt(const LogPosition& position) { return implementation_->startAt(position); }
Result<void> Log::truncate(const LogPosition& to, const LogPosition& oldTail) {
  return implementation_->truncate(to, oldTail);
}
Result<uint64_t> Log::trimBelow(uint64_t lsn) { return implementation_->trimBelow(lsn); }
Result<void> Log::zeroTail(const LogPosition& tail) { return implementation_->zeroTail(tail); }
Result<void> Log::close(const LogPosition& tail) { return implementation_->close(tail); }

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

}  // namespace walship

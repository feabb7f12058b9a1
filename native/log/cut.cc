// The end of the log: truncation, and the clean end that a close leaves.
#include <utility>

#include "log/files.h"
#include "log/implementation.h"

namespace walship {

namespace {

bool samePlace(const LogPosition& a, const LogPosition& b) {
  return a.lsn == b.lsn && a.headerChecksum == b.headerChecksum && a.page == b.page && a.offset == b.offset;
}

}  // namespace

Result<void> Log::Implementation::truncate(const LogPosition& to, const LogPosition& oldTail) {
  if (failure_) return *failure_;
  auto there = view_.positionAt(to.lsn);
  if (!there) return there.error();
  if (!samePlace(there.value(), to)) {
    return makeError("WALSHIP_ERR_LOG_POSITION",
                     "LSN " + std::to_string(to.lsn) +
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
  if (auto removed = removeBehind(behind); !removed) return failed(removed.error());
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

// Zeroes all of the tail's segment behind the tail. All, because a header or a frame that is written again,
// the same as before, would lead on to whatever old frames still stand behind it.
Result<void> Log::Implementation::cutBehind(const LogPosition& tail) {
  if (tail.offset == 0) return {};
  const std::string file = view_.table().pathOf(tail.page);
  auto fd = openFile(file, O_RDWR);
  if (!fd) return fd.error();
  const uint64_t from = view_.table().offsetOf(tail.page) + tail.offset;
  const uint64_t pageEnd = from + geometry_.pageBytes - tail.offset;
  // The cut first, so that a crash from here on finds the log's end where it is now.
  if (auto zeroed = zeroAt(fd.value().get(), from, pageEnd - from, file); !zeroed) return zeroed;
  if (auto synced = syncFile(fd.value().get(), file); !synced) return synced;
  if (auto zeroed = zeroAt(fd.value().get(), pageEnd, geometry_.segmentBytes() - pageEnd, file); !zeroed) {
    return zeroed;
  }
  return syncFile(fd.value().get(), file);
}

// Removes segments behind the tail's, the last one first and each durably, so that a crash in between leaves
// no gap. They do not become spares: old pages that come back under their own number could pass for new ones.
Result<void> Log::Implementation::removeBehind(const std::vector<SegmentFile>& files) {
  for (auto segment = files.rbegin(); segment != files.rend(); ++segment) {
    if (auto removed = removeFile(segment->file); !removed) return removed;
    if (auto synced = syncDirectory(settings_.dir); !synced) return synced;
  }
  return {};
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
  return noted(removeBehind(behind));
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

}  // namespace walship

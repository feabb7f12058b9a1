#include "log/recovery.h"

#include <algorithm>

#include "log/files.h"

namespace walship {

namespace {

std::string number(uint64_t value) { return std::to_string(value); }

// One run of recover(): reads pages of the segments that are there.
class Walker {
 public:
  Walker(const std::string& dir, const Geometry& geometry, const std::optional<Mark>& mark)
      : dir_(dir), geometry_(geometry), mark_(mark), page_(geometry.pageBytes) {}

  Result<void> takeSegments(const DirectoryListing& listing, Recovery& found);
  Result<void> walk(Recovery& found);
  Result<void> splitAtTail(Recovery& found);
  Result<void> countBehind(Recovery& found);

 private:
  const std::string& fileOf(uint64_t page) const {
    return files_[static_cast<size_t>((page - files_.front().firstPage) / geometry_.segmentPages)].file;
  }
  uint64_t offsetOf(uint64_t page) const { return page % geometry_.segmentPages * geometry_.pageBytes; }
  bool has(uint64_t page) const {
    return !files_.empty() && page >= files_.front().firstPage &&
           page - files_.front().firstPage < files_.size() * geometry_.segmentPages;
  }
  Error damaged(uint64_t page, const Error& problem) const {
    return corruptAt(fileOf(page), offsetOf(page), problem);
  }
  Error missing(uint64_t page, const std::string& why) const {
    const std::string file = segmentPath(dir_, page - page % geometry_.segmentPages);
    return fileError("WALSHIP_ERR_LOG_SEGMENT_MISSING",
                     file + " is missing: " + why +
                         "; put the file back, or restore this node from another one with a fresh directory",
                     file);
  }

  std::optional<Error> foreignHeader(const std::string& file) const;
  Result<void> read(uint64_t page, MutableBytes into);
  Result<PageHeader> headerAt(uint64_t page);
  Result<PageWalk> walkAt(uint64_t page);
  Result<LogPosition> reachMark();
  Result<LogPosition> endOfPageBefore(const LogPosition& position);

  const std::string& dir_;
  const Geometry& geometry_;
  const std::optional<Mark>& mark_;
  std::vector<SegmentFile> files_;
  std::vector<std::byte> page_;
  Fd open_;
  std::string openFile_;
  bool cleanEnd_ = true;  // of the last page walked
};

// The error, if the file begins with a valid page header of another log.
std::optional<Error> Walker::foreignHeader(const std::string& file) const {
  auto fd = openFile(file, O_RDONLY);
  if (!fd) return std::nullopt;
  auto header = readPageHeader(fd.value().get(), file, 0, geometry_, 0);
  if (header || !header.error().is("WALSHIP_ERR_LOG_FOREIGN")) return std::nullopt;
  return header.error();
}

Result<void> Walker::takeSegments(const DirectoryListing& listing, Recovery& found) {
  for (const SegmentFile& segment : listing.segments) {
    if (segment.firstPage % geometry_.segmentPages != 0) {
      return fileError("WALSHIP_ERR_LOG_FOREIGN",
                       segment.file + " cannot be a segment of a log with " + number(geometry_.segmentPages) +
                           " pages per segment; correct the setting, or move the file away",
                       segment.file);
    }
    if (mark_ && segment.firstPage < mark_->firstPage) {
      found.below.push_back(segment);
      continue;
    }
    auto size = sizeOf(segment.file);
    if (!size) return size.error();
    if (size.value() != geometry_.segmentBytes()) {
      if (auto foreign = foreignHeader(segment.file)) return *foreign;
      return fileError(
          "WALSHIP_ERR_LOG_CORRUPT",
          segment.file + " has " + number(size.value()) + " bytes, a segment has " +
              number(geometry_.segmentBytes()) +
              ": it was cut or copied in part; restore this node from another one with a fresh directory",
          segment.file, static_cast<int64_t>(std::min(size.value(), geometry_.segmentBytes())));
    }
    if (!files_.empty() && segment.firstPage != files_.back().firstPage + geometry_.segmentPages) {
      return missing(files_.back().firstPage + geometry_.segmentPages,
                     "there are segments before and behind it");
    }
    files_.push_back(segment);
  }
  if (!mark_) return {};
  const bool empty = mark_->position.offset == 0;
  if (files_.empty() ? !empty : files_.front().firstPage != mark_->firstPage) {
    return missing(mark_->firstPage, dir_ + "/mark says that the log begins there");
  }
  if (!empty && !has(mark_->position.page)) {
    return missing(mark_->position.page, dir_ + "/mark says that the log is durable up to LSN " +
                                             number(mark_->position.lsn) + " in it");
  }
  return {};
}

Result<void> Walker::read(uint64_t page, MutableBytes into) {
  const std::string& file = fileOf(page);
  if (file != openFile_) {
    auto fd = openFile(file, O_RDONLY);
    if (!fd) return fd.error();
    open_ = fd.take();
    openFile_ = file;
  }
  return readAt(open_.get(), into, offsetOf(page), file);
}

Result<PageHeader> Walker::headerAt(uint64_t page) {
  const MutableBytes into = MutableBytes(page_).first(kPageHeaderBytes);
  if (auto got = read(page, into); !got) return got.error();
  return checkPageHeader(into, geometry_, page);
}

Result<PageWalk> Walker::walkAt(uint64_t page) {
  if (auto got = read(page, page_); !got) return got.error();
  return walkPage(page_, geometry_, page);
}

// A position right behind a page header is the end of the page before, whether the header is still there or
// not.
Result<LogPosition> Walker::endOfPageBefore(const LogPosition& position) {
  auto walked = walkAt(position.page - 1);
  if (!walked) return damaged(position.page - 1, walked.error());
  const LogPosition& end = walked.value().end;
  if (end.lsn != position.lsn || end.headerChecksum != position.headerChecksum) {
    return damaged(position.page - 1,
                   walked.value().clean ? makeError("WALSHIP_ERR_LOG_CORRUPT",
                                                    "its frames do not lead to LSN " + number(position.lsn) +
                                                        ", where " + dir_ + "/mark says that the log goes on")
                                        : walked.value().problem);
  }
  cleanEnd_ = walked.value().clean;
  return end;
}

// Checks that the position of the mark is in the log; gives back the end of its page.
Result<LogPosition> Walker::reachMark() {
  const LogPosition& wanted = mark_->position;
  auto walked = walkAt(wanted.page);
  if (!walked) {
    if (wanted.offset == kPageHeaderBytes && has(wanted.page - 1)) return endOfPageBefore(wanted);
    return damaged(wanted.page, walked.error());
  }
  const LogPosition& end = walked.value().end;
  if (wanted.lsn < walked.value().header.firstLsn || wanted.lsn > end.lsn) {
    Error problem = makeError("WALSHIP_ERR_LOG_CORRUPT", "the page ends at LSN " + number(end.lsn));
    problem.offset = end.offset;
    if (!walked.value().clean) problem = walked.value().problem;
    problem.message += ", but " + dir_ + "/mark says that the log is durable up to LSN " + number(wanted.lsn);
    return damaged(wanted.page, problem);
  }
  const LogPosition there = boundaryAt(page_, end.offset, wanted.lsn);
  if (there.lsn != wanted.lsn || there.headerChecksum != wanted.headerChecksum ||
      there.offset != wanted.offset) {
    Error problem = makeError("WALSHIP_ERR_LOG_CORRUPT", dir_ + "/mark names another history at LSN " +
                                                             number(wanted.lsn) +
                                                             ": mark and segments are not of the same log");
    problem.offset = wanted.offset;
    return damaged(wanted.page, problem);
  }
  if (end.offset == kPageHeaderBytes && has(wanted.page - 1)) return endOfPageBefore(wanted);
  cleanEnd_ = walked.value().clean;
  return end;
}

Result<void> Walker::walk(Recovery& found) {
  LogPosition end;
  if (mark_) {
    found.durablePage = mark_->position.page;
    if (mark_->position.offset == 0) {
      found.origin = end = mark_->position;
    } else {
      auto reached = reachMark();
      if (!reached) return reached.error();
      end = reached.value();
    }
  } else {
    const uint64_t first = files_.front().firstPage;
    auto walked = walkAt(first);
    if (!walked) return damaged(first, walked.error());
    end = walked.value().end;
    cleanEnd_ = walked.value().clean;
  }
  for (;;) {
    const uint64_t next = end.offset == 0 ? end.page : end.page + 1;
    if (!cleanEnd_ || !has(next)) break;
    auto walked = walkAt(next);
    if (!walked) {
      if (walked.error().is("WALSHIP_ERR_PAGE_FOREIGN")) return damaged(next, walked.error());
      break;
    }
    const PageWalk& page = walked.value();
    if (page.header.firstLsn != end.lsn || page.header.parent != end.headerChecksum ||
        page.header.epoch < end.epoch || page.end.offset == kPageHeaderBytes) {
      break;
    }
    end = page.end;
    cleanEnd_ = page.clean;
  }
  if (end.offset != 0) {
    // The beginning is as the first page's header says; the epoch before it is not known.
    const uint64_t first = files_.front().firstPage;
    auto header = headerAt(first);
    if (!header) return damaged(first, header.error());
    found.origin = {header.value().firstLsn, header.value().parent, 0, first, 0};
  }
  found.tail = end.offset <= kPageHeaderBytes ? found.origin : end;
  return {};
}

Result<void> Walker::splitAtTail(Recovery& found) {
  for (const SegmentFile& file : files_) {
    if (found.tail.offset == 0 || file.firstPage > found.tail.page) {
      found.behind.push_back(file);
      continue;
    }
    auto header = headerAt(file.firstPage);
    if (!header) return damaged(file.firstPage, header.error());
    if (!found.segments.empty() && header.value().firstLsn <= found.segments.back().firstLsn) {
      return damaged(file.firstPage, makeError("WALSHIP_ERR_LOG_CORRUPT",
                                               "it begins at LSN " + number(header.value().firstLsn) +
                                                   ", at or below where the segment before begins"));
    }
    found.segments.push_back({file.firstPage, header.value().firstLsn, file.file});
  }
  return {};
}

// Adds up what a crash left incomplete behind the tail. Old pages of recycled files do not count: their
// numbers, and the LSNs of their frames, are below the tail's.
Result<void> Walker::countBehind(Recovery& found) {
  const LogPosition& tail = found.tail;
  const bool empty = tail.offset == 0;
  uint64_t newerPages = 0;
  for (uint64_t page = tail.page; has(page); ++page) {
    const bool isTail = !empty && page == tail.page;
    if (!isTail && !headerAt(page)) continue;
    if (auto got = read(page, page_); !got) return got.error();
    const uint32_t from = isTail ? tail.offset : kPageHeaderBytes;
    uint32_t end = isTail ? tail.offset : 0;
    for (uint32_t at = from; at + kFrameHeaderBytes <= geometry_.pageBytes; at += kFrameAlignment) {
      const Bytes rest = Bytes(page_).subspan(at);
      if (loadAt<uint32_t>(rest, 0) != kFrameMagic) continue;
      auto frame = checkFrameHeader(rest);
      if (frame && frame.value().lsn >= tail.lsn) {
        end = std::min(geometry_.pageBytes, at + frameBytes(frame.value().length));
      } else if (!frame && at == from) {
        end = at + kFrameHeaderBytes;  // a header that is itself torn
      }
    }
    if (!isTail) {
      ++newerPages;
      end = std::max(end, kPageHeaderBytes);
    }
    found.discardedBytes += end - (isTail ? tail.offset : 0);
  }
  if (!mark_ && newerPages > (cleanEnd_ ? 1u : 0u)) {
    const uint64_t broken = empty ? tail.page : cleanEnd_ ? tail.page + 1 : tail.page;
    Error problem =
        makeError("WALSHIP_ERR_LOG_CORRUPT", "the log breaks off at LSN " + number(tail.lsn) +
                                                 " although newer pages follow, and " + dir_ +
                                                 "/mark, which would tell a crash from damage, is lost");
    problem.offset = broken == tail.page ? tail.offset : 0;
    return damaged(broken, problem);
  }
  return {};
}

std::string describe(const Recovery& found, const std::string& dir, const DirectoryListing& listing,
                     const std::optional<Mark>& mark, bool markDamaged) {
  std::vector<std::string> parts;
  if (!mark && !found.fresh) {
    parts.push_back(dir + "/mark was " + (markDamaged ? "damaged" : "missing") +
                    ", so the whole log was walked");
  }
  if (!found.clean && !found.fresh) {
    parts.push_back("the log was not closed cleanly: it ends at LSN " + number(found.tail.lsn) + ", " +
                    number(found.discardedBytes) +
                    " bytes of incomplete frames and pages behind it are discarded");
  }
  if (!found.below.empty()) {
    parts.push_back("an interrupted trim is finished: " + number(found.below.size()) + " segments go");
  }
  for (const std::string& stray : listing.strays) {
    parts.push_back(stray + " is no file of a log and was ignored");
  }
  std::string note;
  for (const std::string& part : parts) note += (note.empty() ? "" : "; ") + part;
  return note;
}

}  // namespace

Result<Recovery> recover(const std::string& dir, const DirectoryListing& listing, const Geometry& geometry,
                         const std::optional<Mark>& mark, bool markDamaged, uint64_t startLsn) {
  Recovery found;
  if (mark && mark->geometry.clusterTag != geometry.clusterTag) {
    return fileError("WALSHIP_ERR_LOG_FOREIGN",
                     dir + " holds the log of another cluster; correct the directory or the cluster id",
                     dir + "/mark", 0);
  }
  if (mark && (mark->geometry.pageBytes != geometry.pageBytes ||
               mark->geometry.segmentPages != geometry.segmentPages)) {
    return fileError("WALSHIP_ERR_LOG_FOREIGN",
                     dir + " holds a log with pages of " + number(mark->geometry.pageBytes) +
                         " bytes and segments of " + number(mark->geometry.segmentPages) +
                         " pages, the settings say " + number(geometry.pageBytes) + " and " +
                         number(geometry.segmentPages) +
                         "; set what the log was made with, it cannot be changed later",
                     dir + "/mark", 0);
  }
  Walker walker(dir, geometry, mark);
  if (auto taken = walker.takeSegments(listing, found); !taken) return taken.error();
  if (!mark && listing.segments.empty()) {
    if (markDamaged) {
      return fileError(
          "WALSHIP_ERR_LOG_CORRUPT",
          dir +
              "/mark is damaged and there are no segments: what this log held is not known; restore "
              "this node from another one with a fresh directory",
          dir + "/mark", 0);
    }
    found.fresh = true;
    found.origin = found.tail = {startLsn, 0, 0, 0, 0};
    found.note = describe(found, dir, listing, mark, markDamaged);
    return found;
  }
  if (auto walked = walker.walk(found); !walked) return walked.error();
  if (auto split = walker.splitAtTail(found); !split) return split.error();
  found.clean = mark && mark->closed && mark->position == found.tail;
  if (!found.clean) {
    if (auto counted = walker.countBehind(found); !counted) return counted.error();
  }
  found.note = describe(found, dir, listing, mark, markDamaged);
  return found;
}

}  // namespace walship

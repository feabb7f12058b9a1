#include "log/offline.h"

#include <fcntl.h>

#include <algorithm>

#include "log/files.h"
#include "log/pagefiles.h"
#include "log/recovery.h"

namespace walship {

namespace {

std::string number(uint64_t value) { return std::to_string(value); }

// Asks who holds the lock without taking it.
bool inUse(const std::string& dir) {
  const Fd fd(::open((dir + "/lock").c_str(), O_RDONLY | O_CLOEXEC));
  struct flock whole {};
  whole.l_type = F_WRLCK;
  return fd.valid() && ::fcntl(fd.get(), F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
}

Error missingBefore(const PageFiles::File& file, uint64_t page) {
  return fileError("WALSHIP_ERR_LOG_SEGMENT_MISSING",
                   "pages " + number(page) + " to " + number(file.firstPage - 1) + " are missing before " +
                       file.path + "; put their segment files back, or restore this node from another one",
                   file.path, 0);
}

// One run of verifyLog().
class Verifier {
 public:
  Verifier(PageFiles& files, const VerifyProgress& progress) : files_(files), progress_(progress) {}

  LogVerification run(const std::string& path);

 private:
  void note(const Error& problem);
  // Trimmed away since the run began: no problem.
  bool gone(const PageFiles::File& file) const;
  bool verifyFile(const PageFiles::File& file);
  void verifyPage(const PageFiles::File& file, uint64_t page);

  PageFiles& files_;
  const VerifyProgress& progress_;
  std::string path_;
  LogVerification result_;
  LogPosition required_;  // everything up to here must be valid
  bool known_ = false;    // result_.tail is the end of the page before, so this page must continue it
  bool begun_ = false;
  uint64_t nextPage_ = 0;
  uint64_t doneBytes_ = 0;
  uint64_t totalBytes_ = 0;
};

void Verifier::note(const Error& problem) {
  if (result_.problems.size() < kProblemsMax) {
    result_.problems.push_back(problem);
  } else {
    ++result_.problemsLeftOut;
  }
}

bool Verifier::gone(const PageFiles::File& file) const {
  if (!files_.directory()) return false;
  bool damaged = false;
  auto mark = MarkFile::load(path_, &damaged);
  return mark && mark.value() && mark.value()->firstPage > file.firstPage;
}

LogVerification Verifier::run(const std::string& path) {
  path_ = path;
  result_.geometry = files_.geometry();
  std::optional<Error> refusal;
  if (files_.directory()) {
    auto found = recover(path, files_.listing(), files_.geometry(), files_.mark(), files_.markDamaged(), 0);
    if (found) {
      required_ = found.value().tail;
      result_.firstLsn = found.value().origin.lsn;
      result_.tail = found.value().origin;
    } else {
      refusal = found.error();
      if (files_.mark()) required_ = files_.mark()->position;
    }
  }
  if (required_.offset == 0 && (refusal || !files_.directory())) {
    // No mark to go by: up to the last page that is in its place.
    for (const PageFiles::File& file : files_.files()) {
      for (uint64_t page = file.firstPage; page < file.firstPage + file.pages; ++page) {
        auto header = files_.header(file, page);
        if (header) required_ = {header.value().firstLsn, 0, 0, page, kPageHeaderBytes};
      }
    }
  }
  for (const PageFiles::File& file : files_.files()) totalBytes_ += file.bytes;
  for (const PageFiles::File& file : files_.files()) {
    if (required_.offset == 0 || file.firstPage > required_.page) break;
    if (!verifyFile(file)) return std::move(result_);
  }
  if (result_.tail.lsn < required_.lsn && result_.problems.empty() && !refusal) {
    note(makeError("WALSHIP_ERR_LOG_CORRUPT", "the log ends at LSN " + number(result_.tail.lsn) +
                                                  ", not at LSN " + number(required_.lsn)));
  }
  if (refusal && result_.problems.empty()) note(*refusal);
  return std::move(result_);
}

// false: stopped.
bool Verifier::verifyFile(const PageFiles::File& file) {
  if (begun_ && file.firstPage != nextPage_) {
    note(missingBefore(file, nextPage_));
    known_ = false;
  }
  const uint64_t wanted =
      files_.directory() ? files_.geometry().segmentBytes() : file.pages * files_.geometry().pageBytes;
  if (file.bytes != wanted && !gone(file)) {
    note(fileError("WALSHIP_ERR_LOG_CORRUPT",
                   file.path + " has " + number(file.bytes) + " bytes instead of " + number(wanted),
                   file.path, static_cast<int64_t>(std::min(file.bytes, wanted))));
  }
  for (uint64_t page = file.firstPage; page < file.firstPage + file.pages && page <= required_.page; ++page) {
    verifyPage(file, page);
    doneBytes_ += files_.geometry().pageBytes;
    if (progress_ && !progress_(doneBytes_, totalBytes_)) {
      result_.stopped = true;
      return false;
    }
  }
  nextPage_ = file.firstPage + files_.geometry().segmentPages;
  return true;
}

void Verifier::verifyPage(const PageFiles::File& file, uint64_t page) {
  ++result_.pages;
  auto walked = files_.walk(file, page);
  if (!walked) {
    if (!gone(file)) note(walked.error());
    known_ = false;
    begun_ = true;
    return;
  }
  const PageWalk& walk = walked.value();
  const bool last = page == required_.page;
  if (known_ &&
      (walk.header.firstLsn != result_.tail.lsn || walk.header.parent != result_.tail.headerChecksum)) {
    Error problem = makeError("WALSHIP_ERR_LOG_CORRUPT",
                              "the page begins at LSN " + number(walk.header.firstLsn) +
                                  ", but the page before it ends at LSN " + number(result_.tail.lsn) +
                                  ": frames are missing between them");
    note(corruptAt(file.path, files_.offsetOf(file, page), problem));
  }
  if (!begun_) result_.firstLsn = walk.header.firstLsn;
  begun_ = true;
  forEachFrame(files_.bytes(), 0, walk.end.offset, [&](const FrameHeader& header, Bytes) {
    ++result_.frames;
    result_.payloadBytes += header.length;
    return true;
  });
  // Behind the end of the log a crash may have left anything.
  if (!walk.clean && (!last || walk.end.offset < required_.offset) && !gone(file)) note(walk.problem);
  if (walk.clean && last && walk.end.lsn < required_.lsn) {
    Error problem =
        makeError("WALSHIP_ERR_LOG_CORRUPT",
                  "frames are missing from LSN " + number(walk.end.lsn) + " to LSN " + number(required_.lsn));
    problem.offset = walk.end.offset;
    note(corruptAt(file.path, files_.offsetOf(file, page), problem));
  }
  known_ = walk.clean;
  result_.tail = walk.end;
}

// The page to begin with: the last one whose header is in its place and says an LSN at or below `lsn`.
std::optional<uint64_t> pageFor(PageFiles& files, uint64_t lsn) {
  std::optional<uint64_t> best;
  for (const PageFiles::File& file : files.files()) {
    auto first = files.header(file, file.firstPage);
    if (!first || first.value().firstLsn > lsn) continue;
    uint64_t low = file.firstPage;
    uint64_t high = file.firstPage + file.pages - 1;
    while (low < high) {
      const uint64_t middle = low + (high - low + 1) / 2;
      auto header = files.header(file, middle);
      if (header && header.value().firstLsn <= lsn) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    best = low;
  }
  return best;
}

}  // namespace

Result<LogSummary> inspectLog(const std::string& path) {
  auto opened = PageFiles::open(path);
  if (!opened) return opened.error();
  PageFiles& files = opened.value();
  LogSummary summary;
  summary.geometry = files.geometry();
  if (!files.directory()) {
    auto verified = verifyLog(path, {});
    if (!verified) return verified.error();
    const PageFiles::File& file = files.files().front();
    summary.tail = verified.value().tail;
    summary.firstPage = file.firstPage;
    summary.firstLsn = verified.value().firstLsn;
    summary.segments.push_back({file.firstPage, summary.firstLsn, file.path});
    summary.bytesOnDisk = file.bytes;
    summary.problems = std::move(verified.value().problems);
    return summary;
  }
  summary.inUse = inUse(path);
  summary.spares = files.listing().spares;
  summary.diverged = files.listing().diverged;
  summary.strays = files.listing().strays;
  for (const PageFiles::File& file : files.files()) summary.bytesOnDisk += file.bytes;
  for (const std::string& spare : summary.spares) {
    if (auto size = sizeOf(spare)) summary.bytesOnDisk += size.value();
  }
  if (files.mark()) summary.mark = files.mark()->position;
  auto record = NodeRecordFile::load(path);
  if (record) {
    summary.record = record.take();
  } else {
    summary.problems.push_back(record.error());
  }
  ReaderRegistry readers(path);
  if (auto loaded = readers.load(); !loaded) summary.problems.push_back(loaded.error());
  summary.readers = readers.list();

  auto found = recover(path, files.listing(), files.geometry(), files.mark(), files.markDamaged(), 0);
  if (found) {
    Recovery& recovery = found.value();
    summary.tail = recovery.tail;
    summary.firstPage = recovery.origin.page;
    summary.firstLsn = recovery.origin.lsn;
    summary.segments = std::move(recovery.segments);
    summary.discardableBytes = recovery.discardedBytes;
    summary.closedCleanly = recovery.clean;
    summary.note = std::move(recovery.note);
    return summary;
  }
  summary.problems.push_back(found.error());
  for (const PageFiles::File& file : files.files()) {
    auto header = files.header(file, file.firstPage);
    if (!header) continue;
    if (summary.segments.empty()) {
      summary.firstPage = file.firstPage;
      summary.firstLsn = header.value().firstLsn;
    }
    summary.segments.push_back({file.firstPage, header.value().firstLsn, file.path});
  }
  if (summary.mark) summary.tail = *summary.mark;
  return summary;
}

Result<LogVerification> verifyLog(const std::string& path, const VerifyProgress& progress) {
  auto files = PageFiles::open(path);
  if (!files) return files.error();
  return Verifier(files.value(), progress).run(path);
}

Result<void> exportLog(const std::string& path, uint64_t fromLsn, uint64_t toLsn, const ExportSink& sink) {
  if (fromLsn > toLsn) {
    return makeError("WALSHIP_ERR_LOG_RANGE", "the range begins at LSN " + number(fromLsn) +
                                                  ", behind its end at LSN " + number(toLsn));
  }
  auto opened = PageFiles::open(path);
  if (!opened) return opened.error();
  PageFiles& files = opened.value();
  const auto begin = pageFor(files, fromLsn);
  if (!begin) {
    return makeError("WALSHIP_ERR_LOG_TRIMMED",
                     "LSN " + number(fromLsn) + " is not in " + path +
                         ": `walship log inspect` says where the log begins and ends");
  }
  LogPosition end;
  for (uint64_t page = *begin;; ++page) {
    const PageFiles::File* file = files.find(page);
    std::optional<Error> problem;
    if (file == nullptr) {
      problem = makeError("WALSHIP_ERR_LOG_SEGMENT_MISSING", "there is no file with page " + number(page));
    } else if (auto walked = files.walk(*file, page); !walked) {
      problem = walked.error();
    } else if (const PageWalk& walk = walked.value();
               page != *begin &&
               (walk.header.firstLsn != end.lsn || walk.header.parent != end.headerChecksum)) {
      problem = corruptAt(file->path, files.offsetOf(*file, page),
                          makeError("WALSHIP_ERR_LOG_CORRUPT", "the page does not continue the one before"));
    } else {
      Result<void> given;
      forEachFrame(files.bytes(), 0, walk.end.offset, [&](const FrameHeader& header, Bytes payload) {
        const uint64_t from = std::max(fromLsn, header.lsn);
        const uint64_t to = std::min(toLsn, header.lsn + header.length);
        if (from < to) given = sink(payload.subspan(from - header.lsn, to - from));
        return given.ok() && header.lsn + header.length < toLsn;
      });
      if (!given) return given;
      end = walk.end;
      if (!walk.clean) problem = walk.problem;
    }
    if (end.lsn >= toLsn && end.offset != 0) return {};
    if (!problem) continue;
    // Damage, or merely the end of the log? Only what the mark vouches for must be there.
    if (files.mark() && files.mark()->position.lsn > end.lsn) return *problem;
    return makeError("WALSHIP_ERR_LOG_RANGE", "the log ends at LSN " + number(end.lsn) + ", before LSN " +
                                                  number(toLsn) + " (" + problem->message + ")");
  }
}

}  // namespace walship

#include "databases/sqlite/restore.h"

#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "base/fd.h"
#include "log/files.h"

namespace walship {

namespace {

std::string number(uint64_t value) { return std::to_string(value); }

Error outputError(const std::string& what, const std::string& file) {
  return systemError("WALSHIP_ERR_OUTPUT", what, errno, file);
}

// The file while it is made, under a name of its own.
class NewDatabase {
 public:
  static Result<NewDatabase> create(const std::string& file) {
    for (const char* suffix : {"", "-wal", "-journal", "-walship"}) {
      struct stat found{};
      if (::lstat((file + suffix).c_str(), &found) == 0) {
        return fileError("WALSHIP_ERR_OUTPUT",
                         file + suffix + " exists: a restore makes a new file and overwrites nothing", file + suffix);
      }
    }
    NewDatabase made(file);
    made.fd_ = Fd(::open(made.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!made.fd_.valid()) return outputError("cannot write the database", made.path_);
    if (::flock(made.fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      return outputError("another restore is writing it", made.path_);
    }
    if (::ftruncate(made.fd_.get(), 0) != 0) return outputError("cannot write the database", made.path_);
    made.unfinished_ = true;
    return made;
  }
  NewDatabase(NewDatabase&& other) noexcept
      : file_(other.file_), path_(other.path_), fd_(std::move(other.fd_)), written_(std::move(other.written_)),
        unfinished_(std::exchange(other.unfinished_, false)) {}
  ~NewDatabase() {
    if (unfinished_) ::unlink(path_.c_str());
  }

  Result<void> write(const PageRecord& record) {
    const uint32_t pageBytes = record.header().pageBytes;
    for (uint32_t i = 0; i < record.header().pageCount; ++i) {
      const uint32_t page = record.page(i);
      Bytes image = record.image(i);
      for (uint64_t at = uint64_t{page - 1} * pageBytes; !image.empty();) {
        const ssize_t count = ::pwrite(fd_.get(), image.data(), image.size(), static_cast<off_t>(at));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return outputError("cannot write the database", path_);
        image = image.subspan(static_cast<size_t>(count));
        at += static_cast<uint64_t>(count);
      }
      if (page > written_.size()) written_.resize(page);
      written_[page - 1] = true;
    }
    return {};
  }
  // What lay behind is not part of the database any more, also when it grows again.
  Result<void> cutTo(uint32_t pages, uint32_t pageBytes) {
    written_.resize(pages);
    if (::ftruncate(fd_.get(), static_cast<off_t>(uint64_t{pages} * pageBytes)) == 0) return {};
    return outputError("cannot write the database", path_);
  }
  uint64_t missing(uint32_t lockPage) const {
    const auto gaps = std::count(written_.begin(), written_.end(), false);
    const bool lockGap = lockPage <= written_.size() && !written_[lockPage - 1];
    return static_cast<uint64_t>(gaps) - (lockGap ? 1 : 0);
  }
  Result<void> finish() {
    if (::fsync(fd_.get()) != 0) return outputError("cannot write the database", path_);
    // Unlike a rename, this overwrites nothing that has come up meanwhile.
    if (::link(path_.c_str(), file_.c_str()) != 0) return outputError("cannot give the database its name", file_);
    unfinished_ = false;
    if (::unlink(path_.c_str()) != 0) return outputError("cannot remove the name it was made under", path_);
    const auto dir = std::filesystem::path(file_).parent_path().string();
    return syncDirectory(dir.empty() ? "." : dir);
  }

 private:
  explicit NewDatabase(const std::string& file) : file_(file), path_(file + "-restoring") {}

  std::string file_;
  std::string path_;
  Fd fd_;
  std::vector<bool> written_;
  bool unfinished_ = false;
};

std::string utcText(uint64_t timeUs) {
  const auto seconds = static_cast<time_t>(timeUs / 1'000'000);
  tm parts{};
  ::gmtime_r(&seconds, &parts);
  char text[32];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return std::string(text, length);
}

Error unreachable(const SqliteLogSurvey& survey, const std::string& logDir) {
  std::string message = logDir + " holds no whole transaction";
  if (survey.beyond) {
    message += " at or before the target: its first one ends at LSN " + number(survey.beyond->endLsn);
    message += ", committed " + utcText(survey.beyond->timeUs);
  }
  return makeError("WALSHIP_ERR_LOG_RANGE", message);
}

}  // namespace

Result<RestoredDatabase> restoreSqlite(const std::string& logDir, const std::string& file, const RestoreTarget& target,
                                       const ReadProgress& progress) {
  auto created = NewDatabase::create(file);
  if (!created) return created.error();
  NewDatabase& database = created.value();

  uint64_t surveyBytes = 0;
  auto surveyed = surveySqliteLog(
      logDir, [&](const LoggedTransaction& each) { return each.endLsn <= target.lsn && each.timeUs <= target.timeUs; },
      [&](uint64_t done, uint64_t total) {
        surveyBytes = done;
        progress(done, 2 * total);
      });
  if (!surveyed) return surveyed.error();
  const SqliteLogSurvey& survey = surveyed.value();
  if (target.lsn != UINT64_MAX && target.lsn > survey.endLsn) {
    return makeError("WALSHIP_ERR_LOG_RANGE", "the log ends at LSN " + number(survey.endLsn) + ", before LSN " +
                                                  number(target.lsn));
  }
  if (!survey.last) return unreachable(survey, logDir);

  RestoredDatabase restored;
  restored.reached = *survey.last;
  restored.fromSnapshot = !survey.snapshots.empty();
  restored.baseLsn = restored.fromSnapshot ? survey.snapshots.back().startLsn : survey.startLsn;
  const uint32_t pageBytes = restored.reached.pageBytes;
  auto skipped = survey.abandoned.begin();
  TransactionAssembler assembler;
  auto replayed = readRecords(logDir, restored.baseLsn, restored.reached.endLsn, [&](const LogRecord& record) -> Result<void> {
    progress(surveyBytes + record.endLsn - restored.baseLsn, surveyBytes + restored.reached.endLsn - restored.baseLsn);
    const auto whole = assembler.take(record);
    while (skipped != survey.abandoned.end() && skipped->second <= record.startLsn) ++skipped;
    if (skipped != survey.abandoned.end() && skipped->first <= record.startLsn) return {};
    if (record.view.header().pageBytes != pageBytes) {
      return makeError("WALSHIP_ERR_SQLITE_RECORD", "the page size changes at LSN " + number(record.startLsn) +
                                                        ", where there is no snapshot of the database");
    }
    if (auto written = database.write(record.view); !written) return written;
    if (!whole) return {};
    if (!whole->noChange && !whole->snapshot) ++restored.transactions;
    return database.cutTo(whole->databasePages, pageBytes);
  });
  if (!replayed) return replayed.error();
  if (const uint64_t missing = database.missing(lockBytePage(pageBytes)); missing > 0) {
    return makeError("WALSHIP_ERR_LOG_TRIMMED",
                     number(missing) + " of " + number(restored.reached.databasePages) +
                         " pages are older than the log, which begins at LSN " + number(survey.firstLsn) +
                         " and holds no snapshot of the database up to LSN " + number(restored.reached.endLsn));
  }
  if (auto finished = database.finish(); !finished) return finished.error();
  return restored;
}

}  // namespace walship

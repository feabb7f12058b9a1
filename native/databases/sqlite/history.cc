#include "databases/sqlite/history.h"

#include "log/offline.h"
#include "log/pagefiles.h"

namespace walship {

namespace {

// Where the first record begins: at the start of the log, or, when that was trimmed away, where the first append does.
Result<uint64_t> findStart(const std::string& logDir, const LogSummary& summary) {
  auto opened = PageFiles::open(logDir);
  if (!opened) return opened.error();
  PageFiles& files = opened.value();
  std::optional<uint64_t> start;
  for (uint64_t page = summary.firstPage; !start && page <= summary.tail.page; ++page) {
    const PageFiles::File* file = files.find(page);
    if (file == nullptr) break;
    auto walked = files.walk(*file, page);
    if (!walked) return walked.error();
    forEachFrame(files.bytes(), 0, walked.value().end.offset, [&](const FrameHeader& header, Bytes) {
      if (header.parent == 0) {
        start = header.lsn;
      } else if ((header.flags & kFrameContinues) == 0) {
        start = header.lsn + header.length;
      }
      return !start;
    });
  }
  return start.value_or(summary.tail.lsn);
}

}  // namespace

// A transaction is left unfinished: also the end of the copy under way.
void TransactionAssembler::abandonOpen() {
  if (!open_) return;
  abandoned_.emplace_back(*open_, openEnd_);
  open_.reset();
  copy_.reset();
}

std::optional<LoggedTransaction> TransactionAssembler::take(const LogRecord& record) {
  const PageRecordHeader& header = record.view.header();
  if (header.copy()) return takeCopy(record);
  const bool continues = open_ && header.part == nextPart_ && !header.first();
  if (!continues) abandonOpen();
  if (header.first()) {
    open_ = record.startLsn;
    if (header.type == PageRecordType::snapshot) copy_.reset();
  } else if (!continues) {
    abandoned_.emplace_back(record.startLsn, record.endLsn);
    return std::nullopt;
  }
  nextPart_ = header.part + 1;
  openEnd_ = record.endLsn;
  if (!header.last()) return std::nullopt;
  const LoggedTransaction whole{*open_,           record.endLsn,        header.commitUs,
                                header.pageBytes, header.databasePages, header.type == PageRecordType::snapshot,
                                header.noChange(),   header.place};
  open_.reset();
  return whole;
}

std::optional<LoggedTransaction> TransactionAssembler::takeCopy(const LogRecord& record) {
  const PageRecordHeader& header = record.view.header();
  abandonOpen();
  if (header.first()) {
    copy_ = record.startLsn;
    nextCopyPart_ = 0;
  }
  if (copy_ && header.part != nextCopyPart_) copy_.reset();
  ++nextCopyPart_;
  if (!copy_ || !header.last()) return std::nullopt;
  const LoggedTransaction whole{*copy_, record.endLsn, header.commitUs, header.pageBytes, header.databasePages,
                                true,   true,          header.place};
  copy_.reset();
  return whole;
}

Result<void> readRecords(const std::string& logDir, uint64_t fromLsn, uint64_t toLsn, const RecordSink& sink) {
  RecordParser parser(fromLsn);
  return exportLog(logDir, fromLsn, toLsn, [&](Bytes payload) -> Result<void> {
    parser.feed(payload);
    while (const auto record = parser.next()) {
      if (auto taken = sink(*record); !taken) return taken;
    }
    return {};
  });
}

Result<SqliteLogSurvey> surveySqliteLog(const std::string& logDir,
                                        const std::function<bool(const LoggedTransaction&)>& wanted,
                                        const ReadProgress& progress) {
  auto inspected = inspectLog(logDir);
  if (!inspected) return inspected.error();
  const LogSummary& summary = inspected.value();
  if (!summary.problems.empty()) return summary.problems.front();
  auto start = findStart(logDir, summary);
  if (!start) return start.error();

  SqliteLogSurvey survey;
  survey.firstLsn = summary.firstLsn;
  survey.startLsn = start.value();
  survey.endLsn = summary.tail.lsn;
  survey.inUse = summary.inUse;
  TransactionAssembler assembler;
  static constexpr char kEnough[] = "WALSHIP_ERR_ENOUGH";  // ends the reading; nobody sees it
  auto read = readRecords(logDir, survey.startLsn, survey.endLsn, [&](const LogRecord& record) -> Result<void> {
    progress(record.endLsn - survey.startLsn, survey.endLsn - survey.startLsn);
    const auto whole = assembler.take(record);
    if (!whole) return {};
    if (!wanted(*whole)) {
      survey.beyond = whole;
      return makeError(kEnough, "");
    }
    if (!survey.first) survey.first = whole;
    survey.last = whole;
    if (!whole->noChange) {
      ++survey.transactions;
      survey.lastPlaces.clear();
    }
    survey.lastPlaces.push_back(whole->place);
    if (whole->snapshot) survey.snapshots.push_back(*whole);
    return {};
  });
  if (!read && !read.error().is(kEnough)) return read.error();
  survey.abandoned = assembler.abandoned();
  return survey;
}

}  // namespace walship

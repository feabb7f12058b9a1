// The transactions in the files of a log, read without opening it for use: as log/offline.h, nothing is changed and no lock
// is taken.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "databases/sqlite/reader.h"

namespace walship {

struct LoggedTransaction {
  uint64_t startLsn = 0;
  uint64_t endLsn = 0;
  uint64_t timeUs = 0;  // wall clock of the primary when it saw the commit
  uint32_t pageBytes = 0;
  uint32_t databasePages = 0;
  bool snapshot = false;  // or a copy
  bool noChange = false;
  WalPlace place;  // on the primary
};

// Tells which records make a whole transaction.
class TransactionAssembler {
 public:
  // The transaction, or copy, that this record completes.
  std::optional<LoggedTransaction> take(const LogRecord& record);
  // What was begun and never completed, as ranges of LSNs. Not yet: what is open.
  const std::vector<std::pair<uint64_t, uint64_t>>& abandoned() const { return abandoned_; }

 private:
  std::optional<LoggedTransaction> takeCopy(const LogRecord& record);
  void abandonOpen();

  std::optional<uint64_t> open_;  // where it began
  uint64_t openEnd_ = 0;
  uint32_t nextPart_ = 0;
  std::optional<uint64_t> copy_;  // where the one under way began
  uint32_t nextCopyPart_ = 0;
  std::vector<std::pair<uint64_t, uint64_t>> abandoned_;
};

struct SqliteLogSurvey {
  uint64_t firstLsn = 0;   // of the log
  uint64_t startLsn = 0;   // where its first record begins
  uint64_t endLsn = 0;     // of the log
  uint64_t transactions = 0;
  std::optional<LoggedTransaction> first;
  std::optional<LoggedTransaction> last;
  std::optional<LoggedTransaction> beyond;  // the one at which it was told to stop
  std::vector<LoggedTransaction> snapshots;
  // Places of the WAL that the last state in the log stands for, in order: a generation that was planned may not have come.
  std::vector<WalPlace> lastPlaces;
  std::vector<std::pair<uint64_t, uint64_t>> abandoned;  // as TransactionAssembler::abandoned()
  bool inUse = false;  // a process has the log open
};

using ReadProgress = std::function<void(uint64_t doneBytes, uint64_t totalBytes)>;
using RecordSink = std::function<Result<void>(const LogRecord& record)>;

// `fromLsn`: where a record begins.
Result<void> readRecords(const std::string& logDir, uint64_t fromLsn, uint64_t toLsn, const RecordSink& sink);

// Reads the whole log, or up to the first transaction that `wanted` refuses. WALSHIP_ERR_LOG_NOT_FOUND, and what is wrong
// with the log's files.
Result<SqliteLogSurvey> surveySqliteLog(const std::string& logDir,
                                        const std::function<bool(const LoggedTransaction&)>& wanted,
                                        const ReadProgress& progress);

// SQLite locks the bytes there and never keeps anything in the page that holds them.
constexpr uint32_t lockBytePage(uint32_t pageBytes) { return 0x40000000u / pageBytes + 1; }

}  // namespace walship

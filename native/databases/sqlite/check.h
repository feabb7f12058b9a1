// A database file compared with the log it belongs to, while nobody has either open: what `walship sqlite check` does.
#pragma once

#include "databases/sqlite/history.h"
#include "databases/sqlite/sidecar.h"

namespace walship {

constexpr size_t kDifferentPagesMax = 1000;

struct DatabaseComparison {
  uint32_t pageBytes = 0;
  uint32_t databasePages = 0;
  uint32_t walFrames = 0;  // of whole transactions, in the WAL file
  uint64_t compared = 0;   // pages; the others are older than the log, or of the transactions in the next line
  // In the WAL of a primary that was killed before they came into the log; its next start appends them.
  uint64_t uncaptured = 0;
  // The state in the log that it is, or, when it is none, comes closest to. At or behind the applied LSN.
  LoggedTransaction closest;
  uint32_t loggedPages = 0;           // the database's size there
  uint64_t differentCount = 0;        // pages that are not what the log says
  std::vector<uint32_t> different;    // the first kDifferentPagesMax of them
};

// Changes nothing. WALSHIP_ERR_SQLITE: no database file; WALSHIP_ERR_LOG_RANGE: the log holds no transaction;
// WALSHIP_ERR_LOG_LOCKED.
Result<DatabaseComparison> compareSqlite(const std::string& database, const std::string& logDir,
                                         const ReadProgress& progress);

}  // namespace walship

// A database file made anew from nothing but a log: what `walship sqlite restore` does.
#pragma once

#include "databases/sqlite/history.h"

namespace walship {

// The last transaction that is wanted: it ends at or below `lsn` and no transaction before it, or itself, was committed
// behind `timeUs`.
struct RestoreTarget {
  uint64_t lsn = UINT64_MAX;
  uint64_t timeUs = UINT64_MAX;
};

struct RestoredDatabase {
  LoggedTransaction reached;
  uint64_t baseLsn = 0;       // of the snapshot, or of the log's start
  bool fromSnapshot = false;
  uint64_t transactions = 0;  // replayed on top of it
};

// `file` must not exist, nor a WAL that would belong to it. It appears under its name when it is complete and durable.
// WALSHIP_ERR_OUTPUT; WALSHIP_ERR_LOG_RANGE: the log holds no such transaction; WALSHIP_ERR_LOG_TRIMMED: pages of the
// database are older than the log, which has no snapshot at or below the target.
Result<RestoredDatabase> restoreSqlite(const std::string& logDir, const std::string& file, const RestoreTarget& target,
                                       const ReadProgress& progress);

}  // namespace walship

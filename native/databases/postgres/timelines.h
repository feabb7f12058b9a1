// Timelines: PostgreSQL's number of a line of history, +1 at every promotion. What is known of them comes from the WAL in
// the log, which names its timeline on every page, and from history files kept in the log directory,
// "00000003.history", as PostgreSQL keeps them in pg_wal.
#pragma once

#include <string>
#include <vector>

#include "databases/postgres/wal.h"
#include "engine/engine.h"

namespace walship::postgres {

struct TimelineEnd {
  uint32_t timeline = 0;
  uint64_t switchLsn = 0;  // the next one begins there
  bool operator==(const TimelineEnd&) const = default;
};

// The timelines before the one whose history file this is, oldest first. WALSHIP_ERR_POSTGRES_HISTORY.
Result<std::vector<TimelineEnd>> parseHistory(std::string_view text);

std::string historyFileName(uint32_t timeline);
// none: there is no such file. WALSHIP_ERR_LOG_IO.
Result<std::optional<std::string>> loadHistory(const std::string& dir, uint32_t timeline);
Result<void> storeHistory(const std::string& dir, uint32_t timeline, std::string_view text);

// Bytes [lsn, lsn + into.size()) of the log, which must be there. Blocks for the disk. WALSHIP_ERR_LOG_TRIMMED,
// WALSHIP_ERR_LOG_POSITION.
Result<void> readLog(Engine& engine, uint64_t lsn, MutableBytes into);

// Whose WAL the log holds: by the first beginning of a segment that it has, on the timeline of that place. none: the log
// holds none yet. WALSHIP_ERR_POSTGRES_WAL: the log holds something else.
Result<std::optional<WalIdentity>> identityOf(Engine& engine);
// Of the page that holds the byte before `lsn`. none: its header is not in the log.
Result<std::optional<uint32_t>> timelineBefore(Engine& engine, uint64_t lsn);

}  // namespace walship::postgres

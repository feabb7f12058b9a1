// Timelines: PostgreSQL's number of a line of history, +1 at every promotion. What is known of them comes from the WAL in
// the log, which names its timeline on every page, and from history files (history.h).
#pragma once

#include <string>
#include <vector>

#include "databases/postgres/history.h"
#include "databases/postgres/wal.h"
#include "engine/engine.h"

namespace walship::postgres {

// Bytes [lsn, lsn + into.size()) of the log, which must be there. Blocks for the disk. WALSHIP_ERR_LOG_TRIMMED,
// WALSHIP_ERR_LOG_POSITION.
Result<void> readLog(Engine& engine, uint64_t lsn, MutableBytes into);

// Whose WAL the log holds: by the first beginning of a segment that it has, on the timeline of that place. none: the log
// holds none yet. WALSHIP_ERR_POSTGRES_WAL: the log holds something else.
Result<std::optional<WalIdentity>> identityOf(Engine& engine);
struct TimelineStart {
  uint32_t timeline = 0;
  uint64_t lsn = 0;
};

// The timelines of the log's WAL, oldest first; the first one begins where the log does. Walship begins an epoch wherever
// PostgreSQL begins a timeline, at the same LSN, so that every node finds the place: at the beginning of an epoch there is
// the record with which PostgreSQL enters a timeline, or there is not.
struct Timelines {
  std::vector<TimelineStart> starts;    // empty: the log holds no WAL yet
  uint64_t decidedEpoch = 0;            // the newest epoch of which it is known whether it begins a timeline
  std::optional<uint64_t> undecidedLsn; // an epoch begins there, and too little of it is in the log yet

  uint32_t newest() const { return starts.empty() ? 0 : starts.back().timeline; }
};
// Looks at the WAL below `end`. Blocks for the pump and the disk. WALSHIP_ERR_POSTGRES_WAL.
Result<Timelines> timelinesOf(Engine& engine, uint64_t end);

// A timeline's history file: as it was stored here, or as it follows from the log. none: neither is to be had.
Result<std::optional<std::string>> historyText(Engine& engine, const Timelines& known, uint32_t timeline);

}  // namespace walship::postgres

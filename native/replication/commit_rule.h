// When an append counts as committed.
//
//   async           as soon as the primary's own log has it `flushed`
//   any k           k of the named standbys (of all, if none is named) have it at the level
//   first k         the first k connected ones of the named list all have it (priority order, as PostgreSQL's
//                   synchronous_standby_names = 'FIRST k (…)')
//
// The primary itself must have it too: in memory for `received`, flushed for `flushed` and `applied`; in memory for all of
// them if its disk does not count (`ownDisk`).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "replication/messages.h"

namespace walship {

enum class CommitChoice : uint8_t { any, first };

struct CommitRule {
  CommitLevel level = CommitLevel::async;
  CommitChoice choice = CommitChoice::any;
  uint32_t count = 1;
  std::vector<uint64_t> nodeKeys;  // empty: every standby of the tree counts (choice any only)
  bool ownDisk = true;  // the primary's own disk counts; always does under `async`
};

// Commits wait for the primary's own disk.
constexpr bool needsOwnDisk(const CommitRule& rule) {
  return rule.level == CommitLevel::async || (rule.level != CommitLevel::received && rule.ownDisk);
}

struct StandbyPositions {
  uint64_t nodeKey;
  Positions positions;
};

// The highest LSN that is committed now. None: too few standbys are connected for the rule to move at all.
std::optional<uint64_t> committedBy(const CommitRule& rule, const Positions& primary,
                                    const std::vector<StandbyPositions>& standbys);

}  // namespace walship

// Taking transactions back that a cut has removed from the log: page by page, from the last image of each page that the
// log still holds.
#pragma once

#include <set>

#include "databases/sqlite/reader.h"
#include "databases/sqlite/sidecar.h"
#include "databases/sqlite/wal_index.h"

namespace walship {

// What the database may hold that the log does not.
struct LostPages {
  std::set<uint32_t> pages;
  uint32_t databasePagesMin = UINT32_MAX;  // the database may have been cut down to this: what lies behind is lost, too
  uint64_t fromLsn = UINT64_MAX;           // the lowest cut
  std::vector<uint64_t> files;             // keys of the diverged-… files looked at
  std::string walCopy;                     // where commits were kept aside that never came into any log

  bool any() const { return !pages.empty() || databasePagesMin != UINT32_MAX; }
};

// Looks at the diverged-… files of the log directory that `state.undone` does not name yet, and, on a node that was the
// primary last, at the commits in its WAL that it had not appended to the log; those it copies to
// `<database>-lost-<LSN>-wal`, for the owner of the data.
// `lost.files` is complete also after an error. WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED: the log ends before what was cut off.
Result<void> findLostPages(Engine& engine, const SidecarState& state, WalIndex& index, LostPages& lost);

using PageSink = std::function<Result<void>(uint32_t page, Bytes image)>;

// Gives `sink` the last image of each page in `pages` in the transactions that are complete at `endLsn`.
// WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED: the log does not reach back far enough.
Result<void> restorePages(Engine& engine, std::set<uint32_t> pages, uint64_t endLsn, const PageSink& sink);

}  // namespace walship

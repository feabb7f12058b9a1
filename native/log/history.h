// Epoch history and promise of one node: which epoch began at which LSN, and the newest epoch this node has
// promised itself to. Kept in `epochs` in the log directory, replaced atomically (write, fdatasync, rename,
// sync the directory).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace walship {

struct EpochStart {
  uint64_t epoch = 0;
  uint64_t firstLsn = 0;
  bool operator==(const EpochStart&) const = default;
};

// Sorted, strictly growing in `epoch`, not falling in `firstLsn`.
using EpochHistory = std::vector<EpochStart>;

// The LSN up to which two logs can agree: where, after their newest common epoch, the first of them went on
// in another one. A log that ends in its newest epoch ends at its own tail LSN.
uint64_t commonLsn(const EpochHistory& ours, uint64_t ourTailLsn, const EpochHistory& theirs,
                   uint64_t theirTailLsn);

struct NodeRecord {
  EpochHistory history;
  uint64_t promisedEpoch = 0;  // nothing of an older epoch is accepted or acknowledged any more
  // Committed by a synchronous rule, as known when the record was written: never cut below.
  uint64_t protectedLsn = 0;
};

class NodeRecordFile {
 public:
  // A missing file is an empty record (new log). Errors: WALSHIP_ERR_LOG_CORRUPT, WALSHIP_ERR_LOG_IO.
  static Result<NodeRecord> load(const std::string& dir);
  static Result<void> store(const std::string& dir, const NodeRecord& record);
};

}  // namespace walship

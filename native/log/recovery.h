// What a log directory holds: found out without changing anything, when a log is opened and when one is
// inspected.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "log/mark.h"
#include "log/segment.h"

namespace walship {

struct Recovery {
  LogPosition origin;                 // where the log begins: offset 0 of its first page
  LogPosition tail;                   // behind the last valid frame; `origin` if there is none
  uint64_t durablePage = 0;           // the mark's: all below is known to be durable
  std::vector<SegmentInfo> segments;  // up to the one that holds the tail
  std::vector<SegmentFile> behind;    // segment files with nothing valid in them, behind those
  std::vector<SegmentFile> below;     // left over from a trim that a crash interrupted
  uint64_t discardedBytes = 0;        // of frames and pages behind the tail that were never complete
  bool fresh = false;                 // no log here yet
  bool clean = false;                 // closed cleanly: nothing stands behind the tail
  std::string note;
};

// Starts at the mark and walks as far as pages and frames continue each other. Refuses
// (WALSHIP_ERR_LOG_CORRUPT, WALSHIP_ERR_LOG_SEGMENT_MISSING, WALSHIP_ERR_LOG_FOREIGN) when the log ends below
// the mark. Without a mark the whole log is walked, and it must end cleanly. `startLsn` is that of a log yet
// to be made.
Result<Recovery> recover(const std::string& dir, const DirectoryListing& listing, const Geometry& geometry,
                         const std::optional<Mark>& mark, bool markDamaged, uint64_t startLsn);

}  // namespace walship

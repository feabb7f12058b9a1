// What one copy of a complete page says of itself. Every node has such copies: on its disk, and of newer pages in memory,
// too. They are compared, and the damaged ones repaired, in src/consistency.
#pragma once

#include "log/history.h"
#include "log/page.h"

namespace walship {

enum class CopyState : uint8_t {
  absent = 0,   // this node has no such page, or not all of it
  good = 1,     // header, frames and padding verify
  damaged = 2,  // they do not, or the disk does not give them
  stale = 3,    // they do, but they are of another epoch than the one that the log is in there
};

struct PageCopy {
  CopyState state = CopyState::absent;
  uint64_t sum = 0;  // of all bytes of the page, as they are; what cannot be read counts as zeros
  // Where the page's frames begin and end; of a good or a stale one.
  uint64_t firstLsn = 0;
  uint64_t parent = 0;  // header checksum of the frame before the first one
  uint64_t endLsn = 0;
  uint64_t endChecksum = 0;  // of the last frame's header
  bool operator==(const PageCopy&) const = default;
};

// `page` is complete: its whole content is given. `history`: of this node's log.
PageCopy examine(Bytes page, const Geometry& geometry, uint64_t pageNumber, const EpochHistory& history);

}  // namespace walship

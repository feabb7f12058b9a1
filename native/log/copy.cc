#include "log/copy.h"

#include <algorithm>

#include "base/checksum.h"

namespace walship {

namespace {

// The epoch that the byte at `lsn` is of. Older than all that the history knows: 0.
uint64_t epochAt(const EpochHistory& history, uint64_t lsn) {
  const auto next = std::ranges::upper_bound(history, lsn, {}, &EpochStart::firstLsn);
  return next == history.begin() ? 0 : std::prev(next)->epoch;
}

bool fits(uint64_t epoch, uint64_t known) { return known == 0 || epoch == known; }

}  // namespace

PageCopy examine(Bytes page, const Geometry& geometry, uint64_t pageNumber, const EpochHistory& history) {
  PageCopy copy;
  copy.sum = checksum(page);
  copy.state = CopyState::damaged;
  const auto walked = walkPage(page, geometry, pageNumber);
  // A complete page has a frame at least.
  if (!walked || !walked.value().clean || walked.value().end.offset == kPageHeaderBytes) return copy;
  const PageHeader& header = walked.value().header;
  const LogPosition& end = walked.value().end;
  copy.firstLsn = header.firstLsn;
  copy.parent = header.parent;
  copy.endLsn = end.lsn;
  copy.endChecksum = end.headerChecksum;
  // Epochs do not fall within a page, so its ends answer for what is between them.
  const bool expected = fits(header.epoch, epochAt(history, header.firstLsn)) &&
                        fits(end.epoch, epochAt(history, end.lsn - 1));
  copy.state = expected ? CopyState::good : CopyState::stale;
  return copy;
}

}  // namespace walship

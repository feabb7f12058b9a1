// The log on disk: segment files of pages, preallocated and recycled; recovery; trimming and truncation.
//
//   DIR/lock                       held while the log is open
//   DIR/epochs                     history.h
//   DIR/readers                    readers.h
//   DIR/mark                       how far the log is known to be durable: recovery refuses to end below it
//   DIR/<first page, 16 hex>.wal   segment: pages [first, first + segmentPages), page p at offset
//                                  (p - first) * pageBytes
//   DIR/spare-<n>                  preallocated or recycled files, to become segments by rename
//   DIR/diverged-<epoch>-<lsn>.wal page images of what truncate() cut off, never destroyed silently: the
//                                  tail's epoch, the cut's LSN; "-<n>" behind them for another such cut
//
// Threads: the calls under "writing" wait for each other (a lock nobody contends for: the flusher makes
// nearly all of them); the reading calls are safe from any thread at any time. A thread of the log's own
// makes spare files.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "log/history.h"
#include "log/page.h"

namespace walship {

struct LogSettings {
  std::string dir;
  Geometry geometry;
  uint64_t startLsn = 0;              // of a new, empty log
  uint64_t retainBytes = 1ull << 30;  // kept behind the tail even if nobody needs it
  uint64_t retainBytesMax = 0;        // kept at most even if a registered reader needs more; 0: no bound
  uint32_t spareSegments = 2;         // kept ready ahead of the tail
  bool zeroFill = true;  // zeros into new segments: halves the cost of later syncs on disks; no use on tmpfs
};

struct RecoveryReport {
  LogPosition tail;
  uint64_t discardedBytes = 0;  // unacknowledged bytes behind the tail that a crash left incomplete
  std::string note;             // one sentence for people; empty after a clean close
};

struct SegmentInfo {
  uint64_t firstPage = 0;
  uint64_t firstLsn = 0;
  std::string file;
};

// A segment file that is not of its full size any more.
struct ShortSegment {
  std::string file;
  uint64_t firstPage = 0;
  uint64_t bytes = 0;  // 0 also if it is gone
};

class Log {
 public:
  // Locks the directory (made if missing), checks what is there, recovers. Errors: WALSHIP_ERR_SETTING (a
  // geometry that cannot be), WALSHIP_ERR_LOG_LOCKED, WALSHIP_ERR_LOG_FOREIGN, WALSHIP_ERR_LOG_CORRUPT,
  // WALSHIP_ERR_LOG_SEGMENT_MISSING, WALSHIP_ERR_LOG_IO, WALSHIP_ERR_DISK_FULL, WALSHIP_ERR_DISK_READONLY.
  static Result<std::unique_ptr<Log>> open(const LogSettings& settings, RecoveryReport* report);
  // Without a close() before, the next open() recovers as after a crash.
  ~Log();

  const LogSettings& settings() const;
  const Geometry& geometry() const;

  // ---- writing ----
  // Writes bytes of a page at their place: frames that end at a frame boundary or at the page's end, and the
  // page header with the first of them. Pages come in order and without gaps; a page is finished (zero behind
  // its last frame) when the next one begins. Makes the segment (from a spare, or a new file) if need be.
  // WALSHIP_ERR_DISK_FULL can be tried again later; any other error is final, also for the calls after it.
  Result<void> write(uint64_t page, uint32_t offset, Bytes bytes);
  // fdatasync of every segment written since the last sync. A failure is final (the kernel may have dropped
  // the dirty pages): WALSHIP_ERR_LOG_IO.
  Result<void> sync();
  // Notes `position`, which must have been synced, as durable in DIR/mark (not synced by itself, except when
  // `durable`, at a new segment, trim, truncation and close).
  Result<void> mark(const LogPosition& position, bool durable = false);
  // An empty log adopts the place of another node's first page: {lsn, headerChecksum, epoch or 0, page,
  // offset 0} of a log whose beginning is gone. `page` must be the first of a segment, as Log::firstPage()
  // always is. WALSHIP_ERR_LOG_POSITION otherwise.
  Result<void> startAt(const LogPosition& position);
  // Cuts the log at a frame boundary as positionAt() gives it (WALSHIP_ERR_LOG_POSITION otherwise). Copies
  // what is cut to DIR/diverged-…, lowers the mark durably, then destroys what stands behind the cut, so that
  // no recovery can find the old tail again. `oldTail`: behind the last frame written.
  Result<void> truncate(const LogPosition& to, const LogPosition& oldTail);
  // Removes (or turns into spares) whole segments that lie below the page holding `lsn`. Gives back the new
  // first LSN.
  Result<uint64_t> trimBelow(uint64_t lsn);
  // Zeroes everything in the last segment behind `tail`, so that clean copies compare equal byte for byte.
  Result<void> zeroTail(const LogPosition& tail);
  // Zero tail, sync, durable mark, unlock. No call may follow.
  Result<void> close(const LogPosition& tail);

  // ---- upkeep; like writing, one call at a time ----
  // Puts `bytes`, which verify as page `page`, in the place of what is there on disk, syncs, reads back and compares. The
  // page is complete and synced. `replaces`: checksum() of what readRaw() gives of the whole page, or nothing is written:
  // WALSHIP_ERR_PAGE_CHANGED. A failure leaves the log as usable as it was.
  Result<void> repairPage(uint64_t page, Bytes bytes, uint64_t replaces);
  // Segment files that are shorter than they have to be. `grow`: gives them their size, with zeros.
  Result<std::vector<ShortSegment>> shortSegments(bool grow);

  // ---- reading ----
  uint64_t firstLsn() const;  // the oldest LSN that can be read
  uint64_t firstPage() const;
  uint64_t bytesOnDisk() const;  // of segments and spares
  std::vector<SegmentInfo> segments() const;
  // Reads a page and checks all its frames. Gives back the position behind its last frame. The page must lie
  // between firstPage() and the last page written. Errors carry file and offset: WALSHIP_ERR_LOG_CORRUPT,
  // WALSHIP_ERR_LOG_TRIMMED, WALSHIP_ERR_LOG_POSITION (not written yet), WALSHIP_ERR_LOG_IO. Reading the page
  // that is being written gives the frames written so far.
  Result<LogPosition> readPage(uint64_t page, MutableBytes into) const;
  // The page that holds the byte `lsn` (or, at the tail, the page of the tail). WALSHIP_ERR_LOG_TRIMMED below
  // firstLsn().
  Result<uint64_t> pageOf(uint64_t lsn) const;
  // The last frame boundary at or below `lsn`, as the end of the frame before it (not as the page header
  // behind it); {firstLsn(), …, offset 0} if nothing lies before it. WALSHIP_ERR_LOG_TRIMMED below
  // firstLsn().
  Result<LogPosition> positionAt(uint64_t lsn) const;
  // Bytes of a complete page as they are on disk, unchecked; zeros for what the disk does not give. A whole page, from
  // offset 0 on, is read from the disk even if the kernel has it in memory.
  void readRaw(uint64_t page, uint32_t offset, MutableBytes into) const;

 private:
  class Implementation;
  explicit Log(std::unique_ptr<Implementation> implementation);
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace walship

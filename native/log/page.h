// The page: a fixed-size run of frames, the one unit of cache, grant, file layout, comparison and repair. A
// page starts with a header of its own; frames follow without gaps, each padded to 8 bytes; the rest of a
// finished page is zero. No frame crosses a page. Pages stand at the same offset in every node's segment
// files.
#pragma once

#include "log/frame.h"

namespace walship {

constexpr uint32_t kPageMagic = 0x31505357;  // "WSP1"
constexpr uint32_t kPageBytesMin = 64u << 10;
constexpr uint32_t kPageBytesMax = 4u << 20;
constexpr uint32_t kPageBytesDefault = 256u << 10;
constexpr uint32_t kSegmentPagesMax = 65536;
constexpr uint64_t kPageNumberMax = uint64_t{1} << 41;  // page number × page size stays below 2^63

struct PageHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t pageShift;     // log2 of the page size
  uint64_t page;          // page number
  uint64_t firstLsn;      // lsn of the first frame
  uint64_t epoch;         // of the first frame
  uint64_t parent;        // header checksum of the frame before the first one
  uint64_t clusterTag;    // keyOf(cluster id): tells a foreign log
  uint32_t segmentPages;  // pages in a segment file: the layout is part of the format
  uint32_t reserved;      // 0
  uint64_t headerChecksum;
};
static_assert(sizeof(PageHeader) == 64);

constexpr uint32_t kPageHeaderBytes = sizeof(PageHeader);

// What all pages of one log share.
struct Geometry {
  uint32_t pageBytes = kPageBytesDefault;  // a power of two, kPageBytesMin … kPageBytesMax
  uint32_t segmentPages = 256;
  uint64_t clusterTag = 0;

  uint64_t segmentBytes() const { return uint64_t{pageBytes} * segmentPages; }
  uint32_t payloadRoomMax() const { return pageBytes - kPageHeaderBytes - kFrameHeaderBytes; }
};

// WALSHIP_ERR_SETTING if page or segment size is out of bounds.
Result<void> checkGeometry(const Geometry& geometry);

// A place between two frames. `page`/`offset` is the first byte behind the last frame: the next frame goes
// there, or to page + 1 if the page is finished. An empty log stands at {startLsn, 0, 0, 0, 0}; offset 0
// means that the page header is not there yet. Between a page header and its first frame (offset 64) `epoch`
// is that of the frame to come.
struct LogPosition {
  uint64_t lsn = 0;
  uint64_t headerChecksum = 0;
  uint64_t epoch = 0;
  uint64_t page = 0;
  uint32_t offset = 0;

  FrameChain chain() const { return {lsn, headerChecksum, epoch}; }
  bool operator==(const LogPosition&) const = default;
};

bool allZero(Bytes bytes);

// Writes the header of `page` for a chain that continues in it with a frame of `epoch`.
void sealPageHeader(MutableBytes page, const Geometry& geometry, uint64_t pageNumber, uint64_t epoch,
                    const FrameChain& chain);

// What can be known of a page header without knowing its log: magic, version, checksum, bounds.
// WALSHIP_ERR_PAGE_INVALID.
Result<PageHeader> parsePageHeader(Bytes page);

// Magic, version, checksum, geometry, cluster tag, page number. Errors: WALSHIP_ERR_PAGE_INVALID,
// WALSHIP_ERR_PAGE_FOREIGN (another cluster's, or another geometry), WALSHIP_ERR_PAGE_NUMBER (a stale page of
// a recycled segment).
Result<PageHeader> checkPageHeader(Bytes page, const Geometry& geometry, uint64_t pageNumber);

// Checks the bytes [from.offset, to) of page `from.page` as a continuation of `from`: the page header if
// from.offset is 0, then whole frames that end exactly at `to`. Gives back the position after them. The
// error's offset is within the page.
Result<LogPosition> checkRange(Bytes page, const Geometry& geometry, const LogPosition& from, uint32_t to);

// Walks a page from its header to the last valid frame. `end` is the position after it; `problem` says why
// the walk ended there if the bytes behind are neither zero nor the page's end. Fails only if the page header
// itself is bad.
struct PageWalk {
  PageHeader header;
  LogPosition end;
  bool clean = true;  // the rest of the page is zero
  Error problem;      // meaningful if !clean
};
Result<PageWalk> walkPage(Bytes page, const Geometry& geometry, uint64_t pageNumber);

// The last frame boundary at or below `lsn` in a page whose first `filled` bytes have been checked. `lsn` ≥
// the page's first LSN. Below the end of the first frame that is offset 64.
LogPosition boundaryAt(Bytes page, uint32_t filled, uint64_t lsn);

// Calls `visit(header, payload)` for the frames in [offset, filled) of a page already checked, until it gives
// false. Padding behind the last frame belongs to it: `filled` is a frame boundary.
template <class Visit>
void forEachFrame(Bytes page, uint32_t offset, uint32_t filled, Visit&& visit) {
  uint32_t at = offset < kPageHeaderBytes ? kPageHeaderBytes : offset;
  while (at + kFrameHeaderBytes <= filled) {
    const auto header = loadAt<FrameHeader>(page, at);
    WALSHIP_ASSERT(header.magic == kFrameMagic && header.length <= filled - at - kFrameHeaderBytes);
    if (!visit(header, page.subspan(at + kFrameHeaderBytes, header.length))) return;
    at += frameBytes(header.length);
  }
}

}  // namespace walship

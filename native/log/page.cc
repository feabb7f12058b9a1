#include "log/page.h"

#include <bit>
#include <cstddef>

#include "base/checksum.h"

namespace walship {

namespace {

uint64_t headerChecksumOf(Bytes page) { return checksum(page.first(offsetof(PageHeader, headerChecksum))); }

Error invalid(const std::string& what, int64_t offset = 0) {
  Error error = makeError("WALSHIP_ERR_PAGE_INVALID", "page header: " + what);
  error.offset = offset;
  return error;
}

Error at(Error error, uint32_t offset) {
  error.offset = offset;
  return error;
}

std::string number(uint64_t value) { return std::to_string(value); }

LogPosition startOf(const PageHeader& header) {
  return {header.firstLsn, header.parent, header.epoch, header.page, kPageHeaderBytes};
}

LogPosition behind(const LogPosition& position, const FrameHeader& frame) {
  return {frame.lsn + frame.length, frame.headerChecksum, frame.epoch, position.page,
          position.offset + frameBytes(frame.length)};
}

// The frame at `position`. The first frame of a page has the epoch that the page header names: a page header
// is sealed for exactly one first frame.
Result<FrameHeader> checkFrameAt(Bytes bytes, const LogPosition& position, uint64_t pageEpoch) {
  auto frame = checkFrame(bytes, position.chain());
  if (frame && position.offset == kPageHeaderBytes && frame.value().epoch != pageEpoch) {
    return makeError("WALSHIP_ERR_FRAME_CHAIN", "frame at LSN " + number(frame.value().lsn) + " has epoch " +
                                                    number(frame.value().epoch) + ", its page header says " +
                                                    number(pageEpoch));
  }
  return frame;
}

}  // namespace

bool allZero(Bytes bytes) {
  if (bytes.empty()) return true;
  return bytes[0] == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

Result<void> checkGeometry(const Geometry& geometry) {
  const uint32_t size = geometry.pageBytes;
  if (size < kPageBytesMin || size > kPageBytesMax || !std::has_single_bit(size)) {
    return makeError("WALSHIP_ERR_SETTING", "pageBytes is " + number(size) +
                                                ": it must be a power of two from " + number(kPageBytesMin) +
                                                " to " + number(kPageBytesMax));
  }
  if (geometry.segmentPages == 0 || geometry.segmentPages > kSegmentPagesMax) {
    return makeError("WALSHIP_ERR_SETTING", "segmentPages is " + number(geometry.segmentPages) +
                                                ": it must be from 1 to " + number(kSegmentPagesMax));
  }
  return {};
}

void sealPageHeader(MutableBytes page, const Geometry& geometry, uint64_t pageNumber, uint64_t epoch,
                    const FrameChain& chain) {
  WALSHIP_ASSERT(page.size() >= kPageHeaderBytes && epoch >= chain.epoch && pageNumber <= kPageNumberMax);
  PageHeader header{};
  header.magic = kPageMagic;
  header.version = kFormatVersion;
  header.pageShift = static_cast<uint16_t>(std::countr_zero(geometry.pageBytes));
  header.page = pageNumber;
  header.firstLsn = chain.lsn;
  header.epoch = epoch;
  header.parent = chain.headerChecksum;
  header.clusterTag = geometry.clusterTag;
  header.segmentPages = geometry.segmentPages;
  header.headerChecksum = headerChecksumOf(bytesOf(header));
  std::memcpy(page.data(), &header, sizeof header);
}

Result<PageHeader> parsePageHeader(Bytes page) {
  if (page.size() < kPageHeaderBytes) return invalid("cut short");
  const auto header = loadAt<PageHeader>(page, 0);
  if (header.magic != kPageMagic) {
    return invalid(allZero(page.first(kPageHeaderBytes)) ? "there is none, only zeros"
                                                         : "the magic number is wrong");
  }
  if (header.version != kFormatVersion) {
    return invalid("format version " + number(header.version) + ", this walship reads version " +
                   number(kFormatVersion));
  }
  if (header.headerChecksum != headerChecksumOf(page)) return invalid("the checksum does not match");
  if (header.pageShift < std::countr_zero(kPageBytesMin) ||
      header.pageShift > std::countr_zero(kPageBytesMax)) {
    return invalid("page size 2^" + number(header.pageShift) + " is out of bounds");
  }
  if (header.segmentPages == 0 || header.segmentPages > kSegmentPagesMax) {
    return invalid("segmentPages " + number(header.segmentPages) + " is out of bounds");
  }
  if (header.page > kPageNumberMax) {
    return invalid("page number " + number(header.page) + " is out of bounds");
  }
  if (header.reserved != 0) return invalid("reserved is not zero");
  return header;
}

Result<PageHeader> checkPageHeader(Bytes page, const Geometry& geometry, uint64_t pageNumber) {
  auto parsed = parsePageHeader(page);
  if (!parsed) return parsed;
  const PageHeader& header = parsed.value();
  const auto foreign = [](const std::string& what) {
    return at(makeError("WALSHIP_ERR_PAGE_FOREIGN", "page header: " + what), 0);
  };
  if (header.clusterTag != geometry.clusterTag) return foreign("the page belongs to another cluster");
  if (uint32_t{1} << header.pageShift != geometry.pageBytes) {
    return foreign("pages of " + number(uint32_t{1} << header.pageShift) + " bytes, the log has pages of " +
                   number(geometry.pageBytes));
  }
  if (header.segmentPages != geometry.segmentPages) {
    return foreign("segments of " + number(header.segmentPages) + " pages, the log has segments of " +
                   number(geometry.segmentPages));
  }
  if (header.page != pageNumber) {
    return at(makeError("WALSHIP_ERR_PAGE_NUMBER", "page header: page " + number(header.page) +
                                                       " where page " + number(pageNumber) + " belongs"),
              0);
  }
  return parsed;
}

Result<LogPosition> checkRange(Bytes page, const Geometry& geometry, const LogPosition& from, uint32_t to) {
  WALSHIP_ASSERT(page.size() == geometry.pageBytes && to <= geometry.pageBytes && from.offset <= to);
  WALSHIP_ASSERT(from.offset == 0 || from.offset >= kPageHeaderBytes);
  LogPosition position = from;
  uint64_t pageEpoch = from.epoch;
  if (from.offset == 0) {
    if (to < kPageHeaderBytes) return invalid("cut short");
    auto checked = checkPageHeader(page, geometry, from.page);
    if (!checked) return checked.error();
    const PageHeader& header = checked.value();
    if (header.firstLsn != from.lsn || header.parent != from.headerChecksum || header.epoch < from.epoch) {
      return at(makeError("WALSHIP_ERR_FRAME_CHAIN",
                          "page " + number(from.page) + " does not continue the log at LSN " +
                              number(from.lsn) + ": its header says LSN " + number(header.firstLsn) +
                              ", epoch " + number(header.epoch)),
                0);
    }
    position = startOf(header);
    pageEpoch = header.epoch;
  }
  while (position.offset < to) {
    auto frame = checkFrameAt(page.subspan(position.offset, to - position.offset), position, pageEpoch);
    if (!frame) return at(frame.error(), position.offset);
    position = behind(position, frame.value());
  }
  return position;
}

Result<PageWalk> walkPage(Bytes page, const Geometry& geometry, uint64_t pageNumber) {
  WALSHIP_ASSERT(page.size() == geometry.pageBytes);
  auto checked = checkPageHeader(page, geometry, pageNumber);
  if (!checked) return checked.error();
  PageWalk walk;
  walk.header = checked.value();
  walk.end = startOf(walk.header);
  while (walk.end.offset + kFrameHeaderBytes <= geometry.pageBytes) {
    const Bytes rest = page.subspan(walk.end.offset);
    if (allZero(rest.first(kFrameHeaderBytes))) break;
    auto frame = checkFrameAt(rest, walk.end, walk.header.epoch);
    if (!frame) {
      walk.clean = false;
      walk.problem = at(frame.error(), walk.end.offset);
      return walk;
    }
    walk.end = behind(walk.end, frame.value());
  }
  if (!allZero(page.subspan(walk.end.offset))) {
    walk.clean = false;
    walk.problem = at(makeError("WALSHIP_ERR_PAGE_INVALID", "the page is not zero behind its last frame"),
                      walk.end.offset);
  }
  return walk;
}

LogPosition boundaryAt(Bytes page, uint32_t filled, uint64_t lsn) {
  WALSHIP_ASSERT(filled >= kPageHeaderBytes && filled <= page.size());
  const auto header = loadAt<PageHeader>(page, 0);
  LogPosition position = startOf(header);
  WALSHIP_ASSERT(lsn >= position.lsn);
  forEachFrame(page, kPageHeaderBytes, filled, [&](const FrameHeader& frame, Bytes) {
    if (frame.lsn + frame.length > lsn) return false;
    position = behind(position, frame);
    return true;
  });
  return position;
}

}  // namespace walship

// What PostgreSQL's WAL says of itself. Every WAL page has a header with its timeline and address, and the first page of
// every segment a longer one with the system identifier and the sizes: so a log that begins at the start of a segment
// tells every node of the cascade all that a walsender must know of the server the WAL is from. Pure.
#pragma once

#include "base/result.h"
#include "databases/postgres/wire.h"

namespace walship::postgres {

constexpr uint32_t kWalPageBytes = 8192;  // XLOG_BLCKSZ of every build in use; a segment's header says so
constexpr uint32_t kWalPageHeaderBytes = 24;
constexpr uint32_t kWalLongHeaderBytes = 40;

struct WalPageHeader {
  uint16_t magic = 0;  // differs between major versions
  uint32_t timeline = 0;
  uint64_t lsn = 0;    // of the page
  uint32_t bytes = 0;  // of the header itself, padding included
};

struct WalIdentity {
  uint64_t systemId = 0;
  uint32_t segmentBytes = 0;
  uint32_t timeline = 0;
  uint16_t magic = 0;
  // 15, 17, …; 0: a version this code does not know.
  uint32_t majorVersion() const;
};

// A page of the WAL at `lsn`, at least kWalPageHeaderBytes of it. WALSHIP_ERR_POSTGRES_WAL.
Result<WalPageHeader> parseWalPageHeader(Bytes page, uint64_t lsn);
// The first page of a segment, at least kWalLongHeaderBytes of it. WALSHIP_ERR_POSTGRES_WAL.
Result<WalIdentity> parseSegmentStart(Bytes page, uint64_t lsn);

constexpr size_t kRecordHeaderBytes = 24;
struct TimelineRecord {
  size_t bytes = 0;  // of the whole record; 0: no record that could begin a timeline
};
// From a record's header, or the beginning of one: whether it is of a kind that PostgreSQL enters a timeline with (end of
// recovery, checkpoint at shutdown).
TimelineRecord looksLikeTimelineRecord(Bytes record);
// The timeline that such a record, whole and without page headers, enters. none: it is another record, or none.
std::optional<uint32_t> timelineInRecord(Bytes record);

// "00000001000000000000002A": the file that PostgreSQL keeps the byte in.
std::string walFileName(uint32_t timeline, uint64_t lsn, uint32_t segmentBytes);

}  // namespace walship::postgres

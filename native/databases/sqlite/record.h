// What the log of a SQLite database holds: records of page images. Everything is little-endian.
//
//   header (72 bytes) | page numbers (u32 each) | page images
//
// A transaction is one record or several (kPageRecordFirst … kPageRecordLast), each one append to the log.
// Nothing of it becomes visible before its last record. A later image of a page in the same transaction
// replaces an earlier one. A `snapshot` replaces the whole database: every page is in it.
//
// A `copy` is a snapshot for nodes that have nothing: its records stand between transactions (never within one) and
// change nothing. Each holds pages as the transactions before it have left them. So whoever takes every record from
// the copy's first one on has, behind its last one, the whole database: a page's newest image is either in the copy,
// and no transaction behind it has changed the page, or in the last transaction that has; and pages that the database
// did not have when the copy came to its end are in the transactions that made them. Before the last record it is not
// a state of the database. A copy is over when a transaction is left unfinished, at a `snapshot`, and when another
// begins. As a record by itself it is true all the same: these pages were so at this LSN.
//
// A crash may leave the log ending within a record. Whoever appends next fills the record up with zeros
// first: its header, if that is not complete, or else all of it. So readers always find the next record, and
// see by the sums that this one is no record.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "databases/sqlite/wal_format.h"

namespace walship {

constexpr uint32_t kPageRecordHeaderBytes = 72;
constexpr uint32_t kPageRecordBytesMax = 4u << 20;   // what a reader accepts; writers stay near kPageRecordBytesAim
constexpr uint32_t kPageRecordBytesAim = 1u << 20;

enum class PageRecordType : uint8_t { transaction = 1, snapshot = 2, copy = 3 };
constexpr uint16_t kPageRecordFirst = 1;
constexpr uint16_t kPageRecordLast = 2;
constexpr uint16_t kPageRecordNoChange = 4;  // the pages are as they were; every record of a copy is one of these

// A place in a WAL file: behind frame `frame` (0: behind the header) of the generation `salts`. `sum` is the cumulative
// checksum there, so that equal places mean equal contents of the WAL up to there.
struct WalPlace {
  WalSalts salts{};
  uint32_t frame = 0;
  WalChecksum sum{};

  bool operator==(const WalPlace&) const = default;
};

struct PageRecordHeader {
  PageRecordType type = PageRecordType::transaction;
  uint16_t flags = 0;
  uint32_t pageBytes = 0;      // a power of two
  // Size of the database after the transaction: 0 unless kPageRecordLast; of a snapshot and a copy in every record.
  uint32_t databasePages = 0;
  uint32_t pageCount = 0;      // images in this record
  uint32_t part = 0;           // 0, 1, … within the transaction
  uint64_t commitUs = 0;       // wall clock of the primary when it saw the commit
  WalPlace place;              // on the primary, behind the last WAL frame contained
  uint32_t recordBytes = 0;    // header, numbers and images
  uint64_t bodySum = 0;        // of numbers and images

  bool first() const { return (flags & kPageRecordFirst) != 0; }
  bool last() const { return (flags & kPageRecordLast) != 0; }
  bool noChange() const { return (flags & kPageRecordNoChange) != 0; }
  bool copy() const { return type == PageRecordType::copy; }
  // Behind it the log stands for a state of the database, which was at `place` on the primary.
  bool state() const { return copy() || last(); }
};

constexpr uint64_t pageRecordBytes(uint32_t pageCount, uint32_t pageBytes) {
  return kPageRecordHeaderBytes + uint64_t{pageCount} * (4 + uint64_t{pageBytes});
}

// Gathers pages and makes the record of them, in memory that is used again and again.
class PageRecordWriter {
 public:
  // A record takes no further page that would make it longer than this.
  explicit PageRecordWriter(uint64_t bytesAim = kPageRecordBytesAim) : bytesAim_(bytesAim) {}

  // Begins a transaction: its first record.
  void begin(PageRecordType type, uint32_t pageBytes, bool noChange = false);
  // A later image of the same page within one record replaces the earlier one.
  void add(uint32_t page, Bytes image);
  uint32_t pageCount() const { return static_cast<uint32_t>(pages_.size()); }
  bool full() const { return pageRecordBytes(pageCount() + 1, pageBytes_) > bytesAim_; }
  // The record of what was added since the last one; valid until the next call.
  Bytes finish(bool last, uint32_t databasePages, const WalPlace& place, uint64_t commitUs);
  // The last record did not come into the log: the next one takes its number.
  void takeBack();

 private:
  uint64_t bytesAim_;
  PageRecordType type_ = PageRecordType::transaction;
  uint32_t pageBytes_ = 0;
  uint32_t part_ = 0;
  bool noChange_ = false;
  std::vector<uint32_t> pages_;
  std::vector<std::byte> images_;
  std::vector<std::byte> record_;

  void clear();
};

// A record in the reader's bytes.
class PageRecord {
 public:
  PageRecord(const PageRecordHeader& header, Bytes body) : header_(header), body_(body) {}
  const PageRecordHeader& header() const { return header_; }
  uint32_t page(uint32_t index) const {
    WALSHIP_ASSERT(index < header_.pageCount);
    return loadAt<uint32_t>(body_, size_t{index} * 4);
  }
  Bytes image(uint32_t index) const {
    WALSHIP_ASSERT(index < header_.pageCount);
    return body_.subspan(size_t{header_.pageCount} * 4 + size_t{index} * header_.pageBytes, header_.pageBytes);
  }

 private:
  PageRecordHeader header_;
  Bytes body_;
};

// `bytes`: at least kPageRecordHeaderBytes. Whatever the header says after that is within its limits; the record is
// recordBytes long. WALSHIP_ERR_SQLITE_RECORD: no header (a filler, or bytes that are no record).
Result<PageRecordHeader> parsePageRecordHeader(Bytes bytes);
// `bytes`: exactly the record. Checks the sum of the body and every page number. WALSHIP_ERR_SQLITE_RECORD.
Result<PageRecord> parsePageRecord(Bytes bytes);

}  // namespace walship

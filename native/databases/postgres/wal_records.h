// Where the records are in a stream of PostgreSQL's WAL that comes in pieces of any size. A server that is promoted goes on
// behind the last record that it has whole, so a record is what has to be appended to the log as one. Pure.
#pragma once

#include <array>
#include <utility>

#include "databases/postgres/wal.h"

namespace walship::postgres {

class WalRecords {
 public:
  // `lsn`: between two records, or the start of a segment.
  WalRecords(uint64_t lsn, uint32_t segmentBytes) : lsn_(lsn), segmentBytes_(segmentBytes) {}

  struct Piece {
    size_t bytes = 0;
    bool ends = false;  // a record ends with it, page headers and padding included
  };
  // The beginning of `bytes`, which stand at lsn() and are not empty: up to the end of the record, or all of them. Where
  // no record can be made out everything up to the next page is a piece.
  Piece next(Bytes bytes);
  uint64_t lsn() const { return lsn_; }
  // Whether, since this was asked last, there was a commit that waits until a standby has applied it.
  bool takeAppliedAsked() { return std::exchange(appliedAsked_, false); }

 private:
  // The header, and of a commit as much as says how it waits.
  static constexpr size_t kHeadBytes = kRecordHeaderBytes + 25;

  void takePageHeader();
  void takeRecord(Bytes bytes);
  bool finished();

  uint64_t lsn_;
  const uint32_t segmentBytes_;
  std::array<std::byte, kWalLongHeaderBytes> pageHeader_{};
  std::array<std::byte, kHeadBytes> head_{};
  size_t headBytes_ = 0;    // of the record's head, so far
  bool appliedAsked_ = false;
  uint64_t left_ = 0;       // of the record, without page headers and padding; 0: its length is not known yet
  uint64_t padsTo_ = 0;     // what stands before this is padding of the record before
  bool lost_ = false;       // no record can be made out before the next page
};

}  // namespace walship::postgres

// Reads the records of a walship log, in order.
#pragma once

#include <optional>

#include "databases/sqlite/record.h"
#include "engine/engine.h"

namespace walship {

struct LogRecord {
  uint64_t startLsn = 0;
  uint64_t endLsn = 0;
  PageRecord view;  // valid until the next call
};

// Finds the records in bytes that are given to it piece by piece. What is no record (filled up after a crash) is passed
// over, as record.h says.
class RecordParser {
 public:
  explicit RecordParser(uint64_t lsn) : lsn_(lsn) {}

  void feed(Bytes bytes);
  // none: the bytes so far hold no further whole record.
  std::optional<LogRecord> next();
  uint64_t lsn() const { return lsn_; }                              // behind the last record given
  uint64_t endLsn() const { return lsn_ + buffer_.size() - done_; }  // behind the last byte given to it

 private:
  uint64_t lsn_;
  std::vector<std::byte> buffer_;
  size_t done_ = 0;
};

class RecordReader {
 public:
  // `lsn`: where a record begins.
  RecordReader(Engine& engine, uint64_t lsn) : engine_(engine), parser_(lsn) {}

  void seek(uint64_t lsn) { parser_ = RecordParser(lsn); }
  uint64_t lsn() const { return parser_.lsn(); }
  // none: no whole record ends at or below `limitLsn`. Blocks for the disk. WALSHIP_ERR_LOG_TRIMMED and others.
  Result<std::optional<LogRecord>> next(uint64_t limitLsn);

 private:
  Engine& engine_;
  RecordParser parser_;
};

// Where the first record of the log begins that can be read whole: at its start, or, when that was trimmed away, behind it.
// none: there is none.
Result<std::optional<uint64_t>> firstRecordStart(Engine& engine);

// Where a transaction, or a record of a copy, begins that is complete at or below `lsn`: the last one, or some before it.
// none: the log holds none.
Result<std::optional<uint64_t>> transactionBefore(Engine& engine, uint64_t lsn);

}  // namespace walship

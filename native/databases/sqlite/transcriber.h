// From the primary's WAL to the log: turns committed WAL frames into records and appends them, each transaction once
// and in order. Knows which place of the WAL the log has reached.
//
// Used by one thread at a time (Capture's lock).
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>

#include "databases/sqlite/record.h"
#include "databases/sqlite/wal_index.h"
#include "engine/engine.h"

namespace walship {

// A commit that comes while a record of a copy is made waits for it, and stands behind it in the log: a small one.
constexpr uint64_t kCopyRecordBytesAim = 256u << 10;

class Transcriber {
 public:
  // `stop`: a wait for room in the log ends soon. The engine, the index and `stop` outlive the transcriber.
  Transcriber(Engine& engine, WalIndex& index, const std::atomic<bool>& stop)
      : engine_(engine),
        index_(index),
        stop_(stop),
        writer_(recordBytesAim(engine, kPageRecordBytesAim)),
        copyWriter_(recordBytesAim(engine, kCopyRecordBytesAim)) {}

  // The log's end is the database at `place`, `databasePages` large. `place.frame` 0: where the next generation begins,
  // whatever its salts will be.
  void start(const WalPlace& place, uint32_t databasePages, uint64_t lsn);
  const WalPlace& place() const { return place_; }
  uint64_t lsn() const { return lsn_; }  // behind the last transaction appended
  uint64_t transactions() const { return transactions_; }

  // Appends what lies between the place and frame `last`, which must be a commit frame. WALSHIP_ERR_SQLITE_WAL_CHANGED: the
  // frames do not go on from the place; the log needs a snapshot. What an error leaves in the log is no transaction; the
  // place stays.
  Result<void> append(uint32_t last);
  // Whether the frames from the place to `last` are valid now. false also while a writer has not corrected their
  // checksums.
  Result<bool> valid(uint32_t last);
  // The last transaction appended, if `header` has not come to it and the WAL still holds it, whole, right behind: what
  // the wal-index needs to be told of it.
  struct Unpublished {
    WalSalts salts;
    bool bigEndianSums;
    uint32_t pageBytes;
    uint32_t databasePages;
    WalChecksum sum;
    std::vector<uint32_t> pages;  // of its frames, in order
  };
  Result<std::optional<Unpublished>> unpublished(const WalIndexHeader& header);
  // Appends a transaction that changes nothing: page 1 as it is. So the log tells that its end is the database at
  // `place`.
  Result<void> appendAnchor(const WalPlace& place, uint32_t pageBytes, uint32_t databasePages, Bytes firstPage);
  // The whole database as of `header`, within a read transaction of the index's connection that began at it. Goes on from
  // there.
  Result<void> appendSnapshot(const WalIndexHeader& header, uint32_t pageBytes, uint32_t databasePages,
                              const std::function<void(uint32_t page)>& progress);

  // ---- a copy of the database between its transactions: record.h says what it is and why it is right ----
  void beginCopy(uint32_t pageBytes);
  // The next record of it. As appendSnapshot(); the place must have come to `header` at least. Waits for nobody.
  // WALSHIP_ERR_BACKPRESSURE: try again. WALSHIP_ERR_SQLITE_COPY_BROKEN: what was appended since beginCopy() does not
  // allow it to go on; begin anew.
  struct CopyStep {
    uint64_t startLsn;
    uint64_t endLsn;
    uint32_t donePages;
    uint32_t databasePages;
    bool last;
  };
  Result<CopyStep> appendCopy(const WalIndexHeader& header);

 private:
  struct Cursor {
    WalSalts salts;
    uint32_t frame;
    WalChecksum sum;
    bool bigEndianSums;
    uint32_t pageBytes;
  };
  using FrameSink = std::function<Result<void>(const WalFrameHeader& header, Bytes image, const Cursor& cursor)>;

  // A small arena takes smaller records only.
  static uint64_t recordBytesAim(Engine& engine, uint64_t bytes) {
    return std::min<uint64_t>(bytes, engine.pump().appender().appendBytesMax());
  }
  Result<std::optional<Cursor>> cursor();
  // true: all of them were valid.
  Result<bool> forFrames(Cursor& cursor, uint32_t last, const FrameSink& sink);
  Result<void> appendFrames(uint32_t last);
  Result<void> appendRecord(bool last, uint32_t databasePages, const WalPlace& place);
  Result<void> readPageAtPlace(uint32_t page, const WalIndexHeader& header);
  Result<void> addUnwritten(uint32_t databasePages, uint32_t pageBytes);

  Engine& engine_;
  WalIndex& index_;
  const std::atomic<bool>& stop_;
  PageRecordWriter writer_;
  PageRecordWriter copyWriter_;
  uint32_t copyPageBytes_ = 0;
  uint32_t copyNext_ = 0;   // the next page of the copy
  bool copyBroken_ = true;
  WalPlace place_;
  uint32_t databasePages_ = 0;
  uint64_t lsn_ = 0;
  uint64_t transactions_ = 0;
  std::vector<bool> grown_;      // of the transaction under way: pages behind databasePages_ that it has written
  // Of the last transaction appended: where each of its pages stands in the WAL. The writer may not have published it.
  std::vector<std::pair<uint32_t, uint32_t>> lastFrames_;
  std::vector<std::byte> buffer_;
  std::vector<std::byte> page_;
};

}  // namespace walship

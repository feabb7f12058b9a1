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

class Transcriber {
 public:
  // `stop`: a wait for room in the log ends soon. The engine, the index and `stop` outlive the transcriber.
  Transcriber(Engine& engine, WalIndex& index, const std::atomic<bool>& stop)
      : engine_(engine), index_(index), stop_(stop), writer_(recordBytesAim(engine)) {}

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
  // Appends a transaction that changes nothing: page 1 as it is. So the log tells that its end is the database at
  // `place`.
  Result<void> appendAnchor(const WalPlace& place, uint32_t pageBytes, uint32_t databasePages, Bytes firstPage);
  // The whole database as of `header`, within a read transaction of the index's connection that began at it. Goes on from
  // there.
  Result<void> appendSnapshot(const WalIndexHeader& header, uint32_t pageBytes, uint32_t databasePages,
                              const std::function<void(uint32_t page)>& progress);

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
  static uint64_t recordBytesAim(Engine& engine) {
    return std::min<uint64_t>(kPageRecordBytesAim, engine.pump().appender().appendBytesMax());
  }
  Result<std::optional<Cursor>> cursor();
  // true: all of them were valid.
  Result<bool> forFrames(Cursor& cursor, uint32_t last, const FrameSink& sink);
  Result<void> appendRecord(uint32_t databasePages, const WalPlace& place);
  Result<void> addUnwritten(uint32_t databasePages, uint32_t pageBytes);

  Engine& engine_;
  WalIndex& index_;
  const std::atomic<bool>& stop_;
  PageRecordWriter writer_;
  WalPlace place_;
  uint32_t databasePages_ = 0;
  uint64_t lsn_ = 0;
  uint64_t transactions_ = 0;
  std::vector<bool> grown_;      // of the transaction under way: pages behind databasePages_ that it has written
  std::vector<std::byte> buffer_;
  std::vector<std::byte> page_;
};

}  // namespace walship

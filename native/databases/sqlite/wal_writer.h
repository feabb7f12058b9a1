// Writes transactions of page images into a database's WAL as SQLite's own commit does: frames into the file, then
// their places into the wal-index, then the new header. A crash at any instruction leaves a WAL that SQLite takes for
// the state before or after.
#pragma once

#include <atomic>
#include <memory>

#include "databases/sqlite/wal_index.h"

namespace walship {

class WalWriter {
 public:
  // `index` outlives the writer. What the WAL holds now is taken to be ours.
  static Result<WalWriter> open(WalIndex& index);

  // Takes the write lock. false: another connection holds it. WALSHIP_ERR_SQLITE_FOREIGN_WRITE: somebody else has
  // committed since the last commit here. WALSHIP_ERR_SQLITE_PAGE_SIZE: the WAL holds pages of another size; it must be
  // restarted first.
  Result<bool> begin(uint32_t pageBytes);
  bool begun() const { return index_->writeLocked(); }
  // A later image of a page replaces an earlier one. Nothing is visible yet.
  Result<void> append(uint32_t page, Bytes image);
  uint32_t appended() const { return static_cast<uint32_t>(pages_.size()); }
  // Everything since begin() becomes visible at once, with the database `databasePages` long. Gives the lock back,
  // also on errors; what an error leaves is seen by nobody until the next recovery of the WAL, then whole or not at all.
  Result<void> commit(uint32_t databasePages);
  // As if nothing had been appended.
  void abandon();

  // A new generation, if every frame is in the database file and no reader uses the WAL. false: not now.
  Result<bool> restart();

  // The last commit; what stands in the wal-index unless somebody else has written.
  const WalIndexHeader& header() const { return header_; }
  uint32_t frames() const { return frames_->load(std::memory_order_relaxed); }  // any thread

 private:
  explicit WalWriter(WalIndex& index) : index_(&index) {}
  Result<bool> lock();
  Result<void> beginFile();
  Result<void> flush(uint32_t commitPages);

  WalIndex* index_;
  WalIndexHeader header_;  // of the last commit
  WalIndexHeader next_;    // of the transaction under way
  uint32_t pageBytes_ = 0;
  std::vector<uint32_t> pages_;       // of the transaction's frames
  std::vector<std::byte> gathered_;   // frames not written yet; the last one's header is not encoded yet
  uint32_t gatheredFrames_ = 0;
  uint32_t writtenFrames_ = 0;        // of the transaction
  std::unique_ptr<std::atomic<uint32_t>> frames_ = std::make_unique<std::atomic<uint32_t>>(0);
};

}  // namespace walship

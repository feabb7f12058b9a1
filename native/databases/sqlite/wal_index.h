// The WAL file and wal-index (-shm) of an open database, through SQLite's own file handles, so that its locks between
// connections and processes go on holding.
//
// One object serves one connection of ours, and is used, like it, by one thread at a time. No call may be made while
// that connection has a statement or a transaction under way, except where it says so. The connection outlives it.
#pragma once

#include <optional>
#include <vector>

#include "base/result.h"
#include "databases/sqlite/api.h"
#include "databases/sqlite/wal_format.h"

namespace walship {

struct WalCheckpoint {
  bool busy = false;        // somebody else's checkpoint was under way: nothing was done
  uint32_t frames = 0;      // in the WAL
  uint32_t backfilled = 0;  // of them copied into the database file, and synced if that is all of them
};

class WalIndex {
 public:
  // `connection` must be of a file database in WAL mode. WALSHIP_ERR_SQLITE: with SQLite's message;
  // WALSHIP_ERR_SQLITE_NOT_WAL.
  static Result<WalIndex> open(sqlite3* connection);
  WalIndex(WalIndex&& other) noexcept { *this = std::move(other); }
  WalIndex& operator=(WalIndex&& other) noexcept;
  ~WalIndex();

  sqlite3* connection() const { return connection_; }
  const std::string& walPath() const { return walPath_; }
  const std::string& databasePath() const { return databasePath_; }

  // ---- reading; allowed within a read transaction of the connection ----
  // The last commit. Where the wal-index is not valid, SQLite is made to recover it first (never within a write of
  // ours). WALSHIP_ERR_SQLITE.
  Result<WalIndexHeader> readHeader();
  // The header as it is now, or none while a commit is being written. Costs no system call: for polling.
  std::optional<WalIndexHeader> tryHeader() const;
  uint32_t backfilled() const;
  // The file's first 32 bytes; none: no valid header there (a WAL that nobody has written to).
  Result<std::optional<WalFileHeader>> fileHeader() const;
  Result<uint64_t> walBytes() const;
  // Bytes of frames [first, first + count), their headers included. The caller's pin or lock keeps them in place.
  Result<void> readFrames(uint32_t first, uint32_t count, uint32_t pageBytes, MutableBytes into) const;
  // The last frame of `page` among the first `header.frames`, 0 if it is in none of them.
  Result<uint32_t> findFrame(uint32_t page, const WalIndexHeader& header);
  // The page number of a frame.
  Result<uint32_t> pageOfFrame(uint32_t frame);
  // A page as of `header`, from the WAL or else the database file (zeros behind its end). A consistent whole only
  // within a read transaction of the connection that began at `header`: a checkpoint could change the file otherwise.
  Result<void> readPage(uint32_t page, const WalIndexHeader& header, MutableBytes into);

  // ---- the pin: while it is held nobody, in no process, can restart the WAL; checkpoints go on ----
  // false: readers hold every slot at the moment; try again later.
  Result<bool> pin();
  void unpin();
  bool pinned() const { return pinSlot_ != 0; }

  // ---- the write lock: SQLite's own, so no other connection commits while it is held ----
  // false: another connection is writing. On success the header is valid, and read into `header`.
  Result<bool> lockWrite(WalIndexHeader& header);
  void unlockWrite();
  bool writeLocked() const { return writeLocked_; }
  // With the write lock: makes `header` the current one, for readers that begin from now on.
  void publish(WalIndexHeader& header);
  // With the write lock: maps a frame to its page, for frames behind the current header's.
  Result<void> addFrame(uint32_t frame, uint32_t page, const WalIndexHeader& current);
  // With the write lock: begins a new WAL generation if all frames are in the database file and no reader uses them.
  // false: not so now. Holds the pin again afterwards if it was held. `header` is the new one on success.
  Result<bool> restart(WalIndexHeader& header) { return restart(header, nextSalts(header)); }
  Result<bool> restart(WalIndexHeader& header, const WalSalts& salts);
  static WalSalts nextSalts(const WalIndexHeader& header);

  // PASSIVE: copies what no reader still needs in its older form, waits for nobody.
  Result<WalCheckpoint> checkpoint();
  Result<void> syncWal() const;

  // For the writer of frames. The write lock must be held.
  Result<void> writeWal(Bytes bytes, uint64_t offset);

  Error error(const std::string& what, int code) const;

 private:
  struct Block {
    volatile uint32_t* pages;  // pages[0] is of frame `before` + 1
    volatile uint16_t* slots;
    uint32_t before;
  };

  explicit WalIndex(sqlite3* connection) : connection_(connection) {}
  Result<void> touch();
  Result<void> map(uint32_t block);
  Result<Block> blockOf(uint32_t frame);
  void forgetBehind(const Block& block, uint32_t count);
  volatile WalIndexHeader* headers() const;
  volatile WalCheckpointInfo* info() const;
  int lock(int index, int count, int flags) const;
  Result<uint32_t> search(const Block& block, uint32_t page, uint32_t last);

  sqlite3* connection_ = nullptr;
  sqlite3_file* database_ = nullptr;
  sqlite3_file* wal_ = nullptr;
  std::string walPath_;
  std::string databasePath_;
  std::vector<volatile std::byte*> blocks_;
  uint32_t pinSlot_ = 0;  // 0: not pinned
  bool writeLocked_ = false;
};

}  // namespace walship

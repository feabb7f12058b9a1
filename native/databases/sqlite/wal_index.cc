#include "databases/sqlite/wal_index.h"

#include <algorithm>
#include <thread>

namespace walship {

namespace {

constexpr int kAttempts = 100;

// SQLite's file handles take less than 128 KiB in one call.
constexpr size_t kStepBytes = 64u << 10;

constexpr int kLockExclusive = SQLITE_SHM_LOCK | SQLITE_SHM_EXCLUSIVE;
constexpr int kUnlockExclusive = SQLITE_SHM_UNLOCK | SQLITE_SHM_EXCLUSIVE;
constexpr int kLockShared = SQLITE_SHM_LOCK | SQLITE_SHM_SHARED;
constexpr int kUnlockShared = SQLITE_SHM_UNLOCK | SQLITE_SHM_SHARED;

// The shared memory is read and written word by word, each at once: other processes look at it at any moment.
template <class T>
T loadShared(const volatile T* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
template <class T>
void storeShared(volatile T* to, T value) {
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
}

using HeaderWords = std::array<uint32_t, sizeof(WalIndexHeader) / 4>;

WalIndexHeader loadHeader(const volatile WalIndexHeader* from) {
  const auto* words = reinterpret_cast<const volatile uint32_t*>(from);
  HeaderWords copy;
  for (size_t i = 0; i < copy.size(); ++i) copy[i] = loadShared(words + i);
  return std::bit_cast<WalIndexHeader>(copy);
}

void storeHeader(volatile WalIndexHeader* to, const WalIndexHeader& header) {
  auto* words = reinterpret_cast<volatile uint32_t*>(to);
  const auto copy = std::bit_cast<HeaderWords>(header);
  for (size_t i = 0; i < copy.size(); ++i) storeShared(words + i, copy[i]);
}

}  // namespace

Result<WalIndex> WalIndex::open(sqlite3* connection) {
  WalIndex index(connection);
  const char* file = sqlite3_db_filename(connection, "main");
  if (file == nullptr || *file == 0) {
    return makeError("WALSHIP_ERR_SQLITE_NOT_WAL", "a database in memory has no write-ahead log to ship; open a file");
  }
  index.databasePath_ = file;
  index.walPath_ = index.databasePath_ + "-wal";
  // SQLite opens the WAL at the first read.
  if (auto read = index.touch(); !read) return read.error();
  bool isWal = false;
  const int asked = sqlite3_exec(
      connection, "PRAGMA main.journal_mode",
      [](void* into, int, char** values, char**) {
        *static_cast<bool*>(into) = std::string_view(values[0]) == "wal";
        return 0;
      },
      &isWal, nullptr);
  if (asked != SQLITE_OK) return index.error("cannot ask for the journal mode", asked);
  if (!isWal) {
    return fileError("WALSHIP_ERR_SQLITE_NOT_WAL",
                     "the database is not in WAL mode; set it with PRAGMA journal_mode=WAL", index.databasePath_);
  }
  sqlite3_file_control(connection, "main", SQLITE_FCNTL_FILE_POINTER, &index.database_);
  sqlite3_file_control(connection, "main", SQLITE_FCNTL_JOURNAL_POINTER, &index.wal_);
  if (index.database_ == nullptr || index.wal_ == nullptr || index.database_->pMethods == nullptr ||
      index.wal_->pMethods == nullptr || index.database_->pMethods->iVersion < 2) {
    return fileError("WALSHIP_ERR_SQLITE_NOT_WAL", "this SQLite gives no access to the shared memory of the WAL",
                     index.databasePath_);
  }
  if (auto mapped = index.map(0); !mapped) return mapped.error();
  if (auto header = index.readHeader(); !header) return header.error();
  return index;
}

WalIndex& WalIndex::operator=(WalIndex&& other) noexcept {
  std::swap(connection_, other.connection_);
  std::swap(database_, other.database_);
  std::swap(wal_, other.wal_);
  std::swap(walPath_, other.walPath_);
  std::swap(databasePath_, other.databasePath_);
  std::swap(blocks_, other.blocks_);
  std::swap(pinSlot_, other.pinSlot_);
  std::swap(writeLocked_, other.writeLocked_);
  return *this;
}

WalIndex::~WalIndex() {
  if (writeLocked_) unlockWrite();
  unpin();
}

Error WalIndex::error(const std::string& what, int code) const {
  return fileError("WALSHIP_ERR_SQLITE",
                   what + ": " + sqlite3_errstr(code) + " (SQLite's code " + std::to_string(code) + ")",
                   databasePath_);
}

// A read makes SQLite open the WAL, recover the wal-index if need be, and learn of a new page size.
Result<void> WalIndex::touch() {
  WALSHIP_ASSERT(!writeLocked_);
  const int outcome = sqlite3_exec(connection_, "PRAGMA main.schema_version", nullptr, nullptr, nullptr);
  if (outcome != SQLITE_OK) return error("cannot read the database", sqlite3_extended_errcode(connection_));
  return {};
}

Result<void> WalIndex::map(uint32_t block) {
  while (blocks_.size() <= block) {
    void volatile* memory = nullptr;
    const int outcome = database_->pMethods->xShmMap(database_, static_cast<int>(blocks_.size()), kIndexBlockBytes, 1,
                                                     &memory);
    if (outcome != SQLITE_OK || memory == nullptr) {
      return error("cannot map the wal-index (" + databasePath_ + "-shm)", outcome);
    }
    blocks_.push_back(static_cast<volatile std::byte*>(memory));
  }
  return {};
}

volatile WalIndexHeader* WalIndex::headers() const {
  return reinterpret_cast<volatile WalIndexHeader*>(blocks_[0]);
}

volatile WalCheckpointInfo* WalIndex::info() const {
  return reinterpret_cast<volatile WalCheckpointInfo*>(blocks_[0] + 2 * sizeof(WalIndexHeader));
}

int WalIndex::lock(int index, int count, int flags) const {
  return database_->pMethods->xShmLock(database_, index, count, flags);
}

// ---- reading ----

std::optional<WalIndexHeader> WalIndex::tryHeader() const {
  const WalIndexHeader first = loadHeader(headers());
  database_->pMethods->xShmBarrier(database_);
  const WalIndexHeader second = loadHeader(headers() + 1);
  if (!(first == second) || first.initialised == 0 || sumOf(first) != first.sum) return std::nullopt;
  return first;
}

Result<WalIndexHeader> WalIndex::readHeader() {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto header = tryHeader();
    if (header) {
      if (header->version == kWalVersion) return *header;
      return fileError("WALSHIP_ERR_SQLITE", "a wal-index of version " + std::to_string(header->version) +
                       " is not known; use the SQLite that made it", databasePath_ + "-shm");
    }
    if (writeLocked_) break;  // nobody else can be writing it
    if (attempt < 3) {
      std::this_thread::yield();
    } else if (auto read = touch(); !read) {
      return read.error();
    }
  }
  return fileError("WALSHIP_ERR_SQLITE", "the wal-index stays invalid; close every program that has the database open",
                   databasePath_ + "-shm");
}

uint32_t WalIndex::backfilled() const { return loadShared(&info()->backfilled); }

Result<uint64_t> WalIndex::walBytes() const {
  sqlite3_int64 bytes = 0;
  const int outcome = wal_->pMethods->xFileSize(wal_, &bytes);
  if (outcome != SQLITE_OK) return error("cannot tell the size of the WAL file", outcome);
  return static_cast<uint64_t>(bytes);
}

Result<std::optional<WalFileHeader>> WalIndex::fileHeader() const {
  std::array<std::byte, kWalHeaderBytes> bytes;
  const int outcome = wal_->pMethods->xRead(wal_, bytes.data(), kWalHeaderBytes, 0);
  if (outcome == SQLITE_IOERR_SHORT_READ) return std::optional<WalFileHeader>{};
  if (outcome != SQLITE_OK) return error("cannot read the WAL file's header", outcome);
  WalFileHeader header;
  return decodeWalFileHeader(bytes, header) ? std::optional(header) : std::nullopt;
}

Result<void> WalIndex::readFrames(uint32_t first, uint32_t count, uint32_t pageBytes, MutableBytes into) const {
  const uint64_t bytes = uint64_t{count} * (pageBytes + kWalFrameHeaderBytes);
  const uint64_t offset = walFrameOffset(first, pageBytes);
  WALSHIP_ASSERT(first > 0 && into.size() >= bytes);
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t step = std::min<uint64_t>(bytes - done, kStepBytes);
    const int outcome = wal_->pMethods->xRead(wal_, into.data() + done, static_cast<int>(step),
                                              static_cast<sqlite3_int64>(offset + done));
    if (outcome != SQLITE_OK) return error("cannot read frame " + std::to_string(first) + " of the WAL", outcome);
    done += step;
  }
  return {};
}

Result<WalIndex::Block> WalIndex::blockOf(uint32_t frame) {
  const uint32_t number = indexBlockOf(frame);
  if (auto mapped = map(number); !mapped) return mapped.error();
  volatile std::byte* start = blocks_[number];
  Block block;
  block.pages = reinterpret_cast<volatile uint32_t*>(start) + (number == 0 ? kIndexHeaderBytes / 4 : 0);
  block.slots = reinterpret_cast<volatile uint16_t*>(start + kIndexBlockFrames * 4);
  block.before = number == 0 ? 0 : kIndexFirstBlockFrames + (number - 1) * kIndexBlockFrames;
  return block;
}

Result<uint32_t> WalIndex::pageOfFrame(uint32_t frame) {
  auto block = blockOf(frame);
  if (!block) return block.error();
  return loadShared(block.value().pages + (frame - block.value().before - 1));
}

Result<uint32_t> WalIndex::search(const Block& block, uint32_t page, uint32_t last) {
  uint32_t found = 0;
  uint32_t slot = indexSlotOf(page);
  for (uint32_t probes = 0; probes <= kIndexSlots; ++probes, slot = (slot + 1) & (kIndexSlots - 1)) {
    const uint32_t entry = loadShared(block.slots + slot);
    if (entry == 0) return found;
    const uint32_t frame = block.before + entry;
    if (frame <= last && loadShared(block.pages + ((entry - 1) & (kIndexBlockFrames - 1))) == page) {
      found = std::max(found, frame);
    }
  }
  return error("the hash table of the wal-index has no end", SQLITE_CORRUPT);
}

Result<uint32_t> WalIndex::findFrame(uint32_t page, const WalIndexHeader& header) {
  if (header.frames == 0) return 0u;
  for (uint32_t number = indexBlockOf(header.frames) + 1; number-- > 0;) {
    const uint32_t first = number == 0 ? 1 : kIndexFirstBlockFrames + (number - 1) * kIndexBlockFrames + 1;
    auto block = blockOf(first);
    if (!block) return block.error();
    auto found = search(block.value(), page, header.frames);
    if (!found || found.value() != 0) return found;
  }
  return 0u;
}

Result<void> WalIndex::readPage(uint32_t page, const WalIndexHeader& header, MutableBytes into) {
  auto frame = findFrame(page, header);
  if (!frame) return frame.error();
  const auto bytes = static_cast<int>(into.size());
  int outcome = 0;
  // What is in the file already is read there, as SQLite's readers do: it may have been cut off since.
  if (frame.value() > backfilled()) {
    const uint64_t offset = walFrameOffset(frame.value(), header.pageBytes()) + kWalFrameHeaderBytes;
    outcome = wal_->pMethods->xRead(wal_, into.data(), bytes, static_cast<sqlite3_int64>(offset));
  } else {
    const uint64_t offset = uint64_t{page - 1} * into.size();
    outcome = database_->pMethods->xRead(database_, into.data(), bytes, static_cast<sqlite3_int64>(offset));
    if (outcome == SQLITE_IOERR_SHORT_READ) outcome = SQLITE_OK;  // zero-filled
  }
  if (outcome != SQLITE_OK) return error("cannot read page " + std::to_string(page), outcome);
  return {};
}

// ---- the pin ----

// A reader's slot whose mark is "unused": a checkpoint heeds no such mark, no reader takes the slot over, as it would
// have to lock it exclusively to set another, and a restart needs all of the slots exclusively.
Result<bool> WalIndex::pin() {
  WALSHIP_ASSERT(!pinned());
  for (uint32_t slot = kWalReaders - 1; slot >= 2; --slot) {
    volatile uint32_t* mark = &info()->readMarks[slot];
    int outcome = lock(walReadLock(slot), 1, kLockExclusive);
    if (outcome == SQLITE_BUSY) continue;
    if (outcome != SQLITE_OK) return error("cannot lock the wal-index", outcome);
    storeShared(mark, kReadMarkUnused);
    lock(walReadLock(slot), 1, kUnlockExclusive);
    outcome = lock(walReadLock(slot), 1, kLockShared);
    if (outcome == SQLITE_BUSY) continue;
    if (outcome != SQLITE_OK) return error("cannot lock the wal-index", outcome);
    // A reader may have come in between.
    if (loadShared(mark) == kReadMarkUnused) {
      pinSlot_ = slot;
      return true;
    }
    lock(walReadLock(slot), 1, kUnlockShared);
  }
  return false;
}

void WalIndex::unpin() {
  if (pinSlot_ == 0) return;
  lock(walReadLock(pinSlot_), 1, kUnlockShared);
  pinSlot_ = 0;
}

// ---- the write lock ----

Result<bool> WalIndex::lockWrite(WalIndexHeader& header) {
  WALSHIP_ASSERT(!writeLocked_);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int outcome = lock(kWalWriteLock, 1, kLockExclusive);
    if (outcome == SQLITE_BUSY) return false;
    if (outcome != SQLITE_OK) return error("cannot lock the WAL for writing", outcome);
    writeLocked_ = true;
    const auto current = tryHeader();
    if (current && current->version == kWalVersion) {
      header = *current;
      return true;
    }
    unlockWrite();
    if (auto read = readHeader(); !read) return read.error();  // recovers
  }
  return error("the wal-index stays invalid", SQLITE_PROTOCOL);
}

void WalIndex::unlockWrite() {
  WALSHIP_ASSERT(writeLocked_);
  writeLocked_ = false;
  lock(kWalWriteLock, 1, kUnlockExclusive);
}

void WalIndex::publish(WalIndexHeader& header) {
  WALSHIP_ASSERT(writeLocked_);
  header.version = kWalVersion;
  header.initialised = 1;
  header.sum = sumOf(header);
  // In this order: a reader takes the first copy, then the second, and believes them if they are equal.
  storeHeader(headers() + 1, header);
  database_->pMethods->xShmBarrier(database_);
  storeHeader(headers(), header);
}

// What a writer that died left behind the first `count` frames of the block. No reader looks at those entries.
void WalIndex::forgetBehind(const Block& block, uint32_t count) {
  for (uint32_t slot = 0; slot < kIndexSlots; ++slot) {
    if (loadShared(block.slots + slot) > count) storeShared<uint16_t>(block.slots + slot, 0);
  }
  const uint32_t entries = block.before == 0 ? kIndexFirstBlockFrames : kIndexBlockFrames;
  for (uint32_t entry = count; entry < entries; ++entry) storeShared<uint32_t>(block.pages + entry, 0);
}

Result<void> WalIndex::addFrame(uint32_t frame, uint32_t page, const WalIndexHeader& current) {
  WALSHIP_ASSERT(writeLocked_ && frame > current.frames && page != 0);
  auto found = blockOf(frame);
  if (!found) return found.error();
  const Block& block = found.value();
  const uint32_t entry = frame - block.before;
  const uint32_t committed = current.frames > block.before ? current.frames - block.before : 0;
  // At the first frame behind the commit, or the first of a block.
  if (entry == committed + 1 && (committed == 0 || loadShared(block.pages + committed) != 0)) {
    forgetBehind(block, committed);
  }
  uint32_t slot = indexSlotOf(page);
  for (uint32_t probes = 0; loadShared(block.slots + slot) != 0; slot = (slot + 1) & (kIndexSlots - 1)) {
    if (++probes > entry) return error("the hash table of the wal-index is not as its frames are", SQLITE_CORRUPT);
  }
  storeShared(block.pages + (entry - 1), page);
  storeShared(block.slots + slot, static_cast<uint16_t>(entry));
  return {};
}

WalSalts WalIndex::nextSalts(const WalIndexHeader& header) {
  WalSalts salts = header.salts;
  const auto bytes = std::as_writable_bytes(std::span(salts));
  storeBig32(bytes, 0, loadBig32(bytes, 0) + 1);
  sqlite3_randomness(4, &salts[1]);
  return salts;
}

Result<bool> WalIndex::restart(WalIndexHeader& header, const WalSalts& salts) {
  WALSHIP_ASSERT(writeLocked_);
  if (header.frames == 0 || backfilled() != header.frames) return false;
  // A look first at the slots that are not ours, so that the pin is let go only when it is likely to be of use.
  for (uint32_t slot = 1; slot < kWalReaders; ++slot) {
    if (slot == pinSlot_) continue;
    const int used = lock(walReadLock(slot), 1, kLockExclusive);
    if (used == SQLITE_BUSY) return false;
    if (used != SQLITE_OK) return error("cannot lock the wal-index", used);
    lock(walReadLock(slot), 1, kUnlockExclusive);
  }
  const bool wasPinned = pinned();
  unpin();
  const int outcome = lock(walReadLock(1), kWalReaders - 1, kLockExclusive);
  if (outcome == SQLITE_OK) {
    header.frames = 0;
    header.salts = salts;
    publish(header);
    storeShared<uint32_t>(&info()->backfilled, 0);
    storeShared<uint32_t>(&info()->backfillAttempted, 0);
    storeShared<uint32_t>(&info()->readMarks[1], 0);
    for (uint32_t slot = 2; slot < kWalReaders; ++slot) storeShared(&info()->readMarks[slot], kReadMarkUnused);
    lock(walReadLock(1), kWalReaders - 1, kUnlockExclusive);
  } else if (outcome != SQLITE_BUSY) {
    return error("cannot lock the wal-index", outcome);
  }
  // Nobody restarts or writes the WAL while the write lock is ours; readers of an older time leave some day.
  for (int attempt = 0; wasPinned && !pinned(); ++attempt) {
    auto again = pin();
    if (!again) return again.error();
    if (!again.value() && attempt == kAttempts) return error("no reader's slot is free for the pin", SQLITE_BUSY);
    if (!again.value()) std::this_thread::yield();
  }
  return outcome == SQLITE_OK;
}

// ---- checkpoints ----

Result<WalCheckpoint> WalIndex::checkpoint() {
  WALSHIP_ASSERT(!writeLocked_);
  if (auto read = touch(); !read) return read.error();
  int frames = 0;
  int backfilled = 0;
  const int outcome = sqlite3_wal_checkpoint_v2(connection_, "main", SQLITE_CHECKPOINT_PASSIVE, &frames, &backfilled);
  if (outcome == SQLITE_BUSY) return WalCheckpoint{true, 0, 0};
  if (outcome != SQLITE_OK) return error("cannot checkpoint", sqlite3_extended_errcode(connection_));
  return WalCheckpoint{false, static_cast<uint32_t>(std::max(frames, 0)),
                       static_cast<uint32_t>(std::max(backfilled, 0))};
}

Result<void> WalIndex::syncWal() const {
  const int outcome = wal_->pMethods->xSync(wal_, SQLITE_SYNC_NORMAL);
  if (outcome != SQLITE_OK) return error("cannot sync the WAL file", outcome);
  return {};
}

Result<void> WalIndex::writeWal(Bytes bytes, uint64_t offset) {
  WALSHIP_ASSERT(writeLocked_);
  for (size_t done = 0; done < bytes.size();) {
    const size_t step = std::min(bytes.size() - done, kStepBytes);
    const int outcome = wal_->pMethods->xWrite(wal_, bytes.data() + done, static_cast<int>(step),
                                               static_cast<sqlite3_int64>(offset + done));
    if (outcome != SQLITE_OK) {
      return error("cannot write the WAL file at offset " + std::to_string(offset + done), outcome);
    }
    done += step;
  }
  return {};
}

}  // namespace walship

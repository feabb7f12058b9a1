// SQLite's write-ahead log file and wal-index as bytes: https://sqlite.org/walformat.html and wal.c. "WAL frame" is
// SQLite's here: a 24-byte header and one page image.
#pragma once

#include <array>

#include "base/bytes.h"

namespace walship {

constexpr size_t kWalHeaderBytes = 32;
constexpr size_t kWalFrameHeaderBytes = 24;
constexpr uint32_t kWalMagic = 0x377f0682;  // | 1: checksums over big-endian words
constexpr uint32_t kWalVersion = 3007000;   // of the WAL file and of the wal-index

constexpr uint32_t kSqlitePageBytesMin = 512;
constexpr uint32_t kSqlitePageBytesMax = 65536;

constexpr bool isSqlitePageBytes(uint32_t bytes) {
  return bytes >= kSqlitePageBytesMin && bytes <= kSqlitePageBytesMax && std::has_single_bit(bytes);
}

// As they stand in the file: compared as bytes, never as numbers.
using WalSalts = std::array<uint32_t, 2>;
using WalChecksum = std::array<uint32_t, 2>;

inline uint32_t loadBig32(Bytes bytes, size_t offset) { return __builtin_bswap32(loadAt<uint32_t>(bytes, offset)); }
inline void storeBig32(MutableBytes bytes, size_t offset, uint32_t value) {
  const uint32_t swapped = __builtin_bswap32(value);
  std::memcpy(bytes.data() + offset, &swapped, sizeof swapped);
}

constexpr uint64_t walFrameOffset(uint32_t frame, uint32_t pageBytes) {
  return kWalHeaderBytes + (uint64_t{frame} - 1) * (pageBytes + kWalFrameHeaderBytes);
}

// SQLite's running checksum, continued over `bytes` (a multiple of 8).
WalChecksum walChecksum(bool bigEndian, Bytes bytes, WalChecksum sum);

struct WalFileHeader {
  bool bigEndianSums = false;
  uint32_t pageBytes = 0;
  uint32_t checkpoints = 0;  // a count of WAL generations, for people
  WalSalts salts{};
  WalChecksum sum{};  // of this header: where the sums of the frames begin
};

// false: not the header of a WAL that SQLite would take.
bool decodeWalFileHeader(Bytes bytes, WalFileHeader& into);
// Computes `header.sum`.
void encodeWalFileHeader(WalFileHeader& header, MutableBytes into);

struct WalFrameHeader {
  uint32_t page = 0;
  uint32_t dbPages = 0;  // the database's size after the commit; 0: not a commit frame
  WalSalts salts{};
  WalChecksum sum{};
};

WalFrameHeader decodeWalFrameHeader(Bytes bytes);
// `sum` goes on over the frame.
void encodeWalFrameHeader(uint32_t page, uint32_t dbPages, const WalSalts& salts, bool bigEndianSums, Bytes image,
                          WalChecksum& sum, MutableBytes into);
// Whether the frame goes on where `sum` stands; then `sum` goes on over it.
bool checkWalFrame(Bytes frame, const WalSalts& salts, bool bigEndianSums, WalChecksum& sum);

// One of the two copies at the beginning of the wal-index.
struct WalIndexHeader {
  uint32_t version = 0;
  uint32_t unused = 0;
  uint32_t change = 0;  // goes up by one with each commit
  uint8_t initialised = 0;
  uint8_t bigEndianSums = 0;
  uint16_t encodedPageBytes = 0;
  uint32_t frames = 0;   // the last frame of the last commit: mxFrame
  uint32_t dbPages = 0;
  WalChecksum frameSum{};
  WalSalts salts{};
  WalChecksum sum{};

  uint32_t pageBytes() const { return (encodedPageBytes & 0xfe00u) + ((encodedPageBytes & 1u) << 16); }
  void setPageBytes(uint32_t bytes) {
    encodedPageBytes = static_cast<uint16_t>((bytes & 0xff00u) | (bytes >> 16));
  }
  bool operator==(const WalIndexHeader&) const = default;
};
static_assert(sizeof(WalIndexHeader) == 48);

// What `sum` has to be.
WalChecksum sumOf(const WalIndexHeader& header);

constexpr uint32_t kWalReaders = 5;
constexpr uint32_t kReadMarkUnused = 0xffffffff;

// Behind the two copies.
struct WalCheckpointInfo {
  uint32_t backfilled;  // frames copied into the database file: nBackfill
  uint32_t readMarks[kWalReaders];
  uint8_t locks[8];
  uint32_t backfillAttempted;
  uint32_t unused;
};
static_assert(sizeof(WalCheckpointInfo) == 40);

constexpr int kWalWriteLock = 0;
constexpr int kWalCheckpointLock = 1;
constexpr int kWalRecoverLock = 2;
constexpr int walReadLock(uint32_t reader) { return 3 + static_cast<int>(reader); }

// The wal-index is made of blocks: the page number of each frame, then a hash table from page number to frame.
constexpr uint32_t kIndexBlockBytes = 32768;
constexpr uint32_t kIndexBlockFrames = 4096;
constexpr uint32_t kIndexSlots = 2 * kIndexBlockFrames;
constexpr uint32_t kIndexHeaderBytes = 2 * sizeof(WalIndexHeader) + sizeof(WalCheckpointInfo);
constexpr uint32_t kIndexFirstBlockFrames = kIndexBlockFrames - kIndexHeaderBytes / 4;
static_assert(kIndexBlockFrames * 4 + kIndexSlots * 2 == kIndexBlockBytes);

constexpr uint32_t indexBlockOf(uint32_t frame) {
  return (frame + kIndexBlockFrames - kIndexFirstBlockFrames - 1) / kIndexBlockFrames;
}
constexpr uint32_t indexSlotOf(uint32_t page) { return (page * 383) & (kIndexSlots - 1); }

}  // namespace walship

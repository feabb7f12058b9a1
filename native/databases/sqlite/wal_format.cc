#include "databases/sqlite/wal_format.h"

#include "base/assert.h"

namespace walship {

namespace {

template <bool swap>
WalChecksum sumWords(Bytes bytes, WalChecksum sum) {
  auto [first, second] = sum;
  for (size_t at = 0; at < bytes.size(); at += 8) {
    uint32_t one = loadAt<uint32_t>(bytes, at);
    uint32_t other = loadAt<uint32_t>(bytes, at + 4);
    if constexpr (swap) {
      one = __builtin_bswap32(one);
      other = __builtin_bswap32(other);
    }
    first += one + second;
    second += other + first;
  }
  return {first, second};
}

}  // namespace

WalChecksum walChecksum(bool bigEndian, Bytes bytes, WalChecksum sum) {
  WALSHIP_ASSERT(bytes.size() % 8 == 0);
  return bigEndian ? sumWords<true>(bytes, sum) : sumWords<false>(bytes, sum);
}

bool decodeWalFileHeader(Bytes bytes, WalFileHeader& into) {
  if (bytes.size() < kWalHeaderBytes) return false;
  const uint32_t magic = loadBig32(bytes, 0);
  if ((magic & ~1u) != kWalMagic || loadBig32(bytes, 4) != kWalVersion) return false;
  WalFileHeader header;
  header.bigEndianSums = (magic & 1) != 0;
  header.pageBytes = loadBig32(bytes, 8);
  header.checkpoints = loadBig32(bytes, 12);
  header.salts = loadAt<WalSalts>(bytes, 16);
  header.sum = walChecksum(header.bigEndianSums, bytes.first(kWalHeaderBytes - 8), {});
  if (!isSqlitePageBytes(header.pageBytes)) return false;
  if (header.sum != WalChecksum{loadBig32(bytes, 24), loadBig32(bytes, 28)}) return false;
  into = header;
  return true;
}

void encodeWalFileHeader(WalFileHeader& header, MutableBytes into) {
  storeBig32(into, 0, kWalMagic | (header.bigEndianSums ? 1u : 0u));
  storeBig32(into, 4, kWalVersion);
  storeBig32(into, 8, header.pageBytes);
  storeBig32(into, 12, header.checkpoints);
  std::memcpy(into.data() + 16, header.salts.data(), 8);
  header.sum = walChecksum(header.bigEndianSums, into.first(kWalHeaderBytes - 8), {});
  storeBig32(into, 24, header.sum[0]);
  storeBig32(into, 28, header.sum[1]);
}

WalFrameHeader decodeWalFrameHeader(Bytes bytes) {
  return {loadBig32(bytes, 0), loadBig32(bytes, 4), loadAt<WalSalts>(bytes, 8),
          {loadBig32(bytes, 16), loadBig32(bytes, 20)}};
}

void encodeWalFrameHeader(uint32_t page, uint32_t dbPages, const WalSalts& salts, bool bigEndianSums, Bytes image,
                          WalChecksum& sum, MutableBytes into) {
  storeBig32(into, 0, page);
  storeBig32(into, 4, dbPages);
  std::memcpy(into.data() + 8, salts.data(), 8);
  sum = walChecksum(bigEndianSums, into.first(8), sum);
  sum = walChecksum(bigEndianSums, image, sum);
  storeBig32(into, 16, sum[0]);
  storeBig32(into, 20, sum[1]);
}

bool checkWalFrame(Bytes frame, const WalSalts& salts, bool bigEndianSums, WalChecksum& sum) {
  const WalFrameHeader header = decodeWalFrameHeader(frame);
  if (header.page == 0 || header.salts != salts) return false;
  WalChecksum next = walChecksum(bigEndianSums, frame.first(8), sum);
  next = walChecksum(bigEndianSums, frame.subspan(kWalFrameHeaderBytes), next);
  if (next != header.sum) return false;
  sum = next;
  return true;
}

WalChecksum sumOf(const WalIndexHeader& header) {
  return walChecksum(false, bytesOf(header).first(sizeof header - sizeof header.sum), {});
}

}  // namespace walship

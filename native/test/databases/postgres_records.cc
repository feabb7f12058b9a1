// Where the records of a stream of WAL end, however it is cut into pieces.
#include <doctest/doctest.h>

#include <random>

#include "databases/postgres/wal_records.h"

using namespace walship;
using namespace walship::postgres;

namespace {

constexpr uint32_t kSegment = 1u << 20;
constexpr uint64_t kStart = 3 * uint64_t{kSegment};

// A segment's worth of WAL, and where its records end: padding, page headers and the rest of a segment after a switch
// included.
struct Wal {
  Buffer bytes;
  std::vector<uint64_t> ends;

  uint64_t lsn() const { return kStart + bytes.size(); }

  void pageHeader(uint64_t rest) {
    const size_t at = bytes.size();
    bytes.resize(at + (lsn() % kSegment == 0 ? kWalLongHeaderBytes : kWalPageHeaderBytes));
    set(at, uint16_t{0xD110});
    set(at + 2, static_cast<uint16_t>(rest > 0 ? 1 : 0));
    set(at + 16, static_cast<uint32_t>(rest));
  }
  template <class T>
  void set(size_t at, T value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }
  void put(Bytes record) {
    while (!record.empty()) {
      if (lsn() % kWalPageBytes == 0) pageHeader(0);
      const size_t take = std::min<size_t>(record.size(), kWalPageBytes - lsn() % kWalPageBytes);
      walship::put(bytes, record.first(take));
      record = record.subspan(take);
      if (!record.empty()) pageHeader(record.size());
    }
  }
  void record(uint32_t length, bool switches = false) {
    Buffer record(length, std::byte{0xAB});
    std::memcpy(record.data(), &length, sizeof length);
    record[16] = static_cast<std::byte>(switches ? 0x40 : 0x00);
    record[17] = static_cast<std::byte>(0);
    put(record);
    while (lsn() % 8 != 0) bytes.push_back(std::byte{0});
    while (switches && lsn() % kSegment != 0) {
      if (lsn() % kWalPageBytes == 0) pageHeader(0);
      bytes.resize(bytes.size() + kWalPageBytes - lsn() % kWalPageBytes);
    }
    ends.push_back(lsn());
  }
};

std::vector<uint64_t> endsFound(const Wal& wal, std::mt19937& random, size_t pieceMax) {
  WalRecords records(kStart, kSegment);
  std::vector<uint64_t> found;
  Bytes rest = wal.bytes;
  while (!rest.empty()) {
    Bytes come = rest.first(std::min<size_t>(rest.size(), 1 + random() % pieceMax));
    rest = rest.subspan(come.size());
    while (!come.empty()) {
      const auto piece = records.next(come);
      if (piece.bytes == 0 || piece.bytes > come.size()) FAIL("a piece of " << piece.bytes << " bytes");
      come = come.subspan(piece.bytes);
      if (piece.ends) found.push_back(records.lsn());
      else if (!come.empty()) FAIL("a piece ended in the middle of a record");
    }
  }
  CHECK(records.lsn() == wal.lsn());
  return found;
}

}  // namespace

TEST_CASE("postgres records: their ends are found in whatever pieces the WAL comes") {
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    Wal wal;
    while (wal.bytes.size() < kSegment) {
      const bool small = random() % 8 != 0;
      wal.record(static_cast<uint32_t>(24 + random() % (small ? 300 : 40'000)));
      if (random() % 400 == 0) wal.record(24, true);
    }
    wal.record(24, true);
    wal.record(8192 - 40, false);
    CHECK(endsFound(wal, random, 1 + random() % 9) == wal.ends);
    CHECK(endsFound(wal, random, 20'000) == wal.ends);
    CHECK(endsFound(wal, random, SIZE_MAX) == wal.ends);
  }
}

TEST_CASE("postgres records: what cannot be made out, and a record that was given up, cost no more than a page") {
  std::mt19937 random(2);
  Wal wal;
  wal.record(100);
  wal.put(Buffer(20, std::byte{0xff}));  // no length of a record
  while (wal.lsn() % kWalPageBytes != 0) wal.bytes.push_back(std::byte{0x77});
  const uint64_t lost = wal.lsn();
  wal.record(200);
  // One that goes on in the next page, which says that nothing does: the server was promoted without its end.
  wal.record(kWalPageBytes);
  wal.bytes.resize(wal.bytes.size() / kWalPageBytes * kWalPageBytes);
  wal.ends.pop_back();
  wal.record(300);
  const auto found = endsFound(wal, random, SIZE_MAX);
  const std::vector<uint64_t> expected{wal.ends[0], lost, wal.ends[1], wal.ends[2]};
  REQUIRE(found.size() == expected.size());
  for (size_t index = 0; index < found.size(); ++index) CHECK(found[index] == expected[index]);
}

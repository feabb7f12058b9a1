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

TEST_CASE("postgres records: a commit that asks the standbys to say when they have applied it is noticed") {
  const auto asked = [](uint8_t info, uint8_t manager, uint32_t flags, Buffer before, size_t dataBytes) {
    Buffer record(kRecordHeaderBytes);
    record[16] = std::byte{info};
    record[17] = std::byte{manager};
    walship::put(record, before);
    const bool isLong = dataBytes > 255;
    record.push_back(std::byte{static_cast<uint8_t>(isLong ? 254 : 255)});
    record.resize(record.size() + (isLong ? 4 : 1) + 8, std::byte{0x55});
    record.resize(record.size() + sizeof flags);
    std::memcpy(record.data() + record.size() - sizeof flags, &flags, sizeof flags);
    record.resize(record.size() + dataBytes - 12, std::byte{0xff});
    const auto length = static_cast<uint32_t>(record.size());
    std::memcpy(record.data(), &length, sizeof length);
    std::mt19937 random(3);
    bool found = true;
    // Also where a page ends in the middle of what says so.
    for (size_t room = 8; found && room <= 72; room += 8) {
      Wal wal;
      wal.record(static_cast<uint32_t>(kWalPageBytes - kWalLongHeaderBytes - room));
      wal.put(record);
      while (wal.lsn() % 8 != 0) wal.bytes.push_back(std::byte{0});
      wal.record(40);
      WalRecords records(kStart, kSegment);
      for (Bytes rest = wal.bytes; !rest.empty();) {
        const auto piece = records.next(rest.first(std::min<size_t>(rest.size(), 1 + random() % 30)));
        rest = rest.subspan(piece.bytes);
      }
      found = records.takeAppliedAsked();
      CHECK_FALSE(records.takeAppliedAsked());
    }
    return found;
  };
  constexpr uint32_t kApplyFeedback = 1u << 29;
  const Buffer origin{std::byte{253}, std::byte{1}, std::byte{0}};
  const Buffer part{std::byte{252}, std::byte{9}, std::byte{0}, std::byte{0}, std::byte{0}};
  CHECK(asked(0x80, 1, kApplyFeedback, {}, 12));
  CHECK(asked(0xb0, 1, kApplyFeedback | 1, {}, 40));
  CHECK(asked(0x80, 1, kApplyFeedback, origin, 300));
  CHECK(asked(0x80, 1, kApplyFeedback, part, 40));
  CHECK_FALSE(asked(0x80, 1, ~kApplyFeedback, {}, 40));
  CHECK_FALSE(asked(0x00, 1, kApplyFeedback, {}, 40));
  CHECK_FALSE(asked(0x90, 1, kApplyFeedback, {}, 40));
  CHECK_FALSE(asked(0x80, 10, kApplyFeedback, {}, 40));
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

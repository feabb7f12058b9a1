#include "log/page.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <string>
#include <vector>

#include "base/checksum.h"

namespace walship::test {
namespace {

const Geometry kGeometry{kPageBytesMin, 4, 77};
const FrameChain kBefore{5000, 0xfeed, 3};

struct Built {
  std::vector<std::byte> page;
  std::vector<LogPosition> boundaries;  // after the header, after each frame
};

Built build(const std::vector<uint32_t>& lengths, uint64_t epoch = 4) {
  Built built{std::vector<std::byte>(kGeometry.pageBytes), {}};
  sealPageHeader(built.page, kGeometry, 9, epoch, kBefore);
  LogPosition position{kBefore.lsn, kBefore.headerChecksum, epoch, 9, kPageHeaderBytes};
  built.boundaries.push_back(position);
  for (uint32_t length : lengths) {
    const MutableBytes frame = MutableBytes(built.page).subspan(position.offset, frameBytes(length));
    for (uint32_t at = 0; at < length; ++at) {
      frame[kFrameHeaderBytes + at] = static_cast<std::byte>(at + length);
    }
    const FrameChain chain = sealFrame(frame, length, 0, epoch, 1, position.chain());
    position = {chain.lsn, chain.headerChecksum, chain.epoch, 9, position.offset + frameBytes(length)};
    built.boundaries.push_back(position);
  }
  return built;
}

std::vector<std::byte> resealedHeader(std::vector<std::byte> page, size_t field, Bytes value) {
  std::memcpy(page.data() + field, value.data(), value.size());
  const uint64_t sum = checksum(Bytes(page).first(offsetof(PageHeader, headerChecksum)));
  std::memcpy(page.data() + offsetof(PageHeader, headerChecksum), &sum, sizeof sum);
  return page;
}

std::string codeOf(const Result<PageHeader>& result) { return result.ok() ? "ok" : result.error().code; }

TEST_CASE("a page is walked to its last frame, and each boundary is found") {
  const auto built = build({1, 100, 8, 3000});
  auto walk = walkPage(built.page, kGeometry, 9);
  REQUIRE(walk.ok());
  CHECK(walk.value().clean);
  CHECK(walk.value().end == built.boundaries.back());
  for (size_t index = 0; index < built.boundaries.size(); ++index) {
    const LogPosition& boundary = built.boundaries[index];
    CHECK(boundaryAt(built.page, walk.value().end.offset, boundary.lsn) == boundary);
    if (index + 1 < built.boundaries.size()) {
      CHECK(boundaryAt(built.page, walk.value().end.offset, built.boundaries[index + 1].lsn - 1) == boundary);
    }
  }
  CHECK(boundaryAt(built.page, walk.value().end.offset, UINT64_MAX) == built.boundaries.back());
}

TEST_CASE("a page that is full to the last byte is walked to its end") {
  const auto built = build({kGeometry.payloadRoomMax()});
  auto walk = walkPage(built.page, kGeometry, 9);
  REQUIRE(walk.ok());
  CHECK(walk.value().clean);
  CHECK(walk.value().end.offset == kGeometry.pageBytes);
}

TEST_CASE("any range between two boundaries is accepted, no other") {
  const auto built = build({1, 100, 8});
  LogPosition start{kBefore.lsn, kBefore.headerChecksum, kBefore.epoch, 9, 0};
  for (size_t to = 0; to < built.boundaries.size(); ++to) {
    auto whole = checkRange(built.page, kGeometry, start, built.boundaries[to].offset);
    REQUIRE(whole.ok());
    CHECK(whole.value() == built.boundaries[to]);
    for (size_t from = 0; from <= to; ++from) {
      auto part = checkRange(built.page, kGeometry, built.boundaries[from], built.boundaries[to].offset);
      REQUIRE(part.ok());
      CHECK(part.value() == built.boundaries[to]);
    }
  }
  for (uint32_t to = 1; to < built.boundaries.back().offset; ++to) {
    bool boundary = false;
    for (const LogPosition& position : built.boundaries) boundary = boundary || position.offset == to;
    CHECK(checkRange(built.page, kGeometry, start, to).ok() == boundary);
  }
  start.lsn += 1;
  CHECK(checkRange(built.page, kGeometry, start, built.boundaries[1].offset)
            .error()
            .is("WALSHIP_ERR_FRAME_CHAIN"));
  start.lsn -= 1;
  start.headerChecksum ^= 1;
  CHECK(checkRange(built.page, kGeometry, start, built.boundaries[1].offset)
            .error()
            .is("WALSHIP_ERR_FRAME_CHAIN"));
  start.headerChecksum ^= 1;
  start.epoch = 5;
  CHECK(checkRange(built.page, kGeometry, start, built.boundaries[1].offset)
            .error()
            .is("WALSHIP_ERR_FRAME_CHAIN"));
}

TEST_CASE("the first frame of a page has the epoch of its page header") {
  const auto built = build({10, 10}, 5);
  auto other = resealedHeader(built.page, offsetof(PageHeader, epoch), bytesOf(uint64_t{4}));
  auto walk = walkPage(other, kGeometry, 9);
  REQUIRE(walk.ok());
  CHECK_FALSE(walk.value().clean);
  CHECK(walk.value().end.offset == kPageHeaderBytes);
  const LogPosition start{kBefore.lsn, kBefore.headerChecksum, kBefore.epoch, 9, 0};
  auto range = checkRange(other, kGeometry, start, built.boundaries.back().offset);
  REQUIRE_FALSE(range.ok());
  CHECK(range.error().is("WALSHIP_ERR_FRAME_CHAIN"));
  CHECK(range.error().offset == kPageHeaderBytes);
}

TEST_CASE("every flipped bit of a page is found, with its place") {
  auto built = build({1, 100, 8});
  const uint32_t used = built.boundaries.back().offset;
  std::vector<size_t> bytes;
  for (size_t at = 0; at < used; ++at) bytes.push_back(at);
  for (size_t at = used; at < built.page.size(); at += 1021) bytes.push_back(at);
  bytes.push_back(built.page.size() - 1);
  for (const size_t at : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      built.page[at] ^= std::byte{1} << bit;
      auto walk = walkPage(built.page, kGeometry, 9);
      if (at < kPageHeaderBytes) {
        CHECK_FALSE(walk.ok());
      } else {
        REQUIRE(walk.ok());
        CHECK_FALSE(walk.value().clean);
        // The walk ends at the boundary before the flipped bit.
        LogPosition expected;
        for (const LogPosition& boundary : built.boundaries) {
          if (boundary.offset <= at) expected = boundary;
        }
        CHECK(walk.value().end == expected);
        CHECK(walk.value().problem.offset == expected.offset);
      }
      built.page[at] ^= std::byte{1} << bit;
    }
  }
}

TEST_CASE("every field of a page header is checked, even under a right checksum") {
  const auto built = build({10});
  const std::string invalid = "WALSHIP_ERR_PAGE_INVALID";
  const std::string foreign = "WALSHIP_ERR_PAGE_FOREIGN";
  const auto with = [&](size_t field, Bytes value) {
    return codeOf(checkPageHeader(resealedHeader(built.page, field, value), kGeometry, 9));
  };
  CHECK(codeOf(checkPageHeader(built.page, kGeometry, 9)) == "ok");
  CHECK(codeOf(checkPageHeader(built.page, kGeometry, 8)) == "WALSHIP_ERR_PAGE_NUMBER");
  CHECK(codeOf(checkPageHeader(Bytes(built.page).first(63), kGeometry, 9)) == invalid);
  CHECK(codeOf(checkPageHeader(std::vector<std::byte>(64), kGeometry, 9)) == invalid);
  CHECK(with(offsetof(PageHeader, magic), bytesOf(uint32_t{1})) == invalid);
  CHECK(with(offsetof(PageHeader, version), bytesOf(uint16_t{2})) == invalid);
  CHECK(with(offsetof(PageHeader, reserved), bytesOf(uint32_t{1})) == invalid);
  for (uint16_t shift : {uint16_t{0}, uint16_t{15}, uint16_t{23}, uint16_t{64}, uint16_t{65535}}) {
    CHECK(with(offsetof(PageHeader, pageShift), bytesOf(shift)) == invalid);
  }
  CHECK(with(offsetof(PageHeader, pageShift), bytesOf(uint16_t{17})) == foreign);
  CHECK(with(offsetof(PageHeader, segmentPages), bytesOf(uint32_t{0})) == invalid);
  CHECK(with(offsetof(PageHeader, segmentPages), bytesOf(kSegmentPagesMax + 1)) == invalid);
  CHECK(with(offsetof(PageHeader, segmentPages), bytesOf(uint32_t{5})) == foreign);
  CHECK(with(offsetof(PageHeader, clusterTag), bytesOf(uint64_t{78})) == foreign);
  CHECK(with(offsetof(PageHeader, page), bytesOf(uint64_t{10})) == "WALSHIP_ERR_PAGE_NUMBER");
  CHECK(with(offsetof(PageHeader, page), bytesOf(UINT64_MAX)) == invalid);
}

TEST_CASE("a geometry that cannot be is refused") {
  CHECK(checkGeometry({kPageBytesDefault, 256, 0}).ok());
  CHECK(checkGeometry({kPageBytesMin, 1, 0}).ok());
  CHECK(checkGeometry({kPageBytesMax, kSegmentPagesMax, 0}).ok());
  for (uint32_t size : {0u, 1u, kPageBytesMin / 2, kPageBytesMin + 1, 3u << 16, kPageBytesMax * 2}) {
    CHECK(checkGeometry({size, 256, 0}).error().is("WALSHIP_ERR_SETTING"));
  }
  CHECK(checkGeometry({kPageBytesMin, 0, 0}).error().is("WALSHIP_ERR_SETTING"));
  CHECK(checkGeometry({kPageBytesMin, kSegmentPagesMax + 1, 0}).error().is("WALSHIP_ERR_SETTING"));
}

}  // namespace
}  // namespace walship::test

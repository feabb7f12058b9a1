#include "base/checksum.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <random>
#include <vector>

using walship::checksum;
using walship::keyOf;

// Checksums are part of the format on disk and on the wire: another xxhash must give the same. The expected
// numbers are those of the xxhash project's own sanity check and of `xxhsum -H3`.
TEST_CASE("checksums are XXH3-64 with the seed 0") {
  CHECK(checksum({}) == 0x2d06800538d394c2ull);
  CHECK(keyOf("a") == 0xe6c632b61e964e1full);
  CHECK(keyOf("abc") == 0x78af5f94892f3950ull);
}

// The one may have made what the other checks: a node whose processor lacks what another's has.
TEST_CASE("a checksum is the same by whatever instructions it is made") {
  std::vector<std::byte> bytes(70'000);
  std::mt19937 random(3);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (size_t size = 0; size <= bytes.size(); size += size < 2'100 ? 1 : 997) {
    for (const size_t from : {0, 1, 40}) {
      const walship::Bytes part = walship::Bytes(bytes).subspan(from, std::min(size, bytes.size() - from));
      CHECK(checksum(part) == XXH3_64bits(part.data(), part.size()));
    }
  }
}

TEST_CASE("every flipped bit changes the checksum") {
  std::vector<std::byte> bytes(513, std::byte{0x5a});
  const uint64_t before = checksum(bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const std::byte mask{static_cast<unsigned char>(1u << (bit % 8))};
    bytes[bit / 8] ^= mask;
    CHECK(checksum(bytes) != before);
    bytes[bit / 8] ^= mask;
  }
  CHECK(checksum(bytes) == before);
}

#include "log/frame.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include "base/checksum.h"
#include "log/page.h"

namespace walship::test {
namespace {

std::vector<std::byte> makeFrame(uint32_t length, const FrameChain& chain, FrameChain* after = nullptr,
                                 uint64_t epoch = 7, uint16_t flags = 0) {
  std::vector<std::byte> frame(frameBytes(length), std::byte{0xee});
  for (uint32_t at = 0; at < length; ++at) {
    frame[kFrameHeaderBytes + at] = static_cast<std::byte>(at * 31 + 1);
  }
  const FrameChain end = sealFrame(frame, length, flags, epoch, 1'234'567, chain);
  if (after != nullptr) *after = end;
  return frame;
}

// A header with a changed field and a right checksum.
template <class T>
std::vector<std::byte> resealed(std::vector<std::byte> frame, size_t field, T value) {
  std::memcpy(frame.data() + field, &value, sizeof value);
  const uint64_t sum = checksum(Bytes(frame).first(offsetof(FrameHeader, headerChecksum)));
  std::memcpy(frame.data() + offsetof(FrameHeader, headerChecksum), &sum, sizeof sum);
  return frame;
}

TEST_CASE("a sealed frame is checked and gives its header back") {
  const FrameChain chain{1000, 0xabcdef, 7};
  for (uint32_t length : {1u, 7u, 8u, 9u, 4096u, kPageBytesMax - kPageHeaderBytes - kFrameHeaderBytes}) {
    FrameChain after;
    auto frame = makeFrame(length, chain, &after, 8, kFrameContinues);
    CHECK(frame.size() % kFrameAlignment == 0);
    auto header = checkFrame(frame, chain);
    REQUIRE(header.ok());
    CHECK(header.value().length == length);
    CHECK(header.value().lsn == 1000);
    CHECK(header.value().flags == kFrameContinues);
    CHECK(header.value().madeAtUs == 1'234'567);
    CHECK(after.lsn == 1000 + length);
    CHECK(after.epoch == 8);
    CHECK(after.headerChecksum == header.value().headerChecksum);
    frame.resize(frame.size() + 100, std::byte{0x77});
    CHECK(checkFrame(frame, chain).ok());
  }
}

TEST_CASE("every flipped bit of a frame is found") {
  const FrameChain chain{1000, 0xabcdef, 7};
  auto frame = makeFrame(61, chain);
  REQUIRE(frame.size() == 128);
  for (size_t bit = 0; bit < frame.size() * 8; ++bit) {
    frame[bit / 8] ^= std::byte{1} << (bit % 8);
    CHECK_FALSE(checkFrame(frame, chain).ok());
    frame[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  CHECK(checkFrame(frame, chain).ok());
}

TEST_CASE("a frame cut anywhere is found, and nothing behind the cut is read") {
  const FrameChain chain{1000, 0xabcdef, 7};
  const auto frame = makeFrame(61, chain);
  for (size_t size = 0; size < frame.size(); ++size) {
    const std::vector<std::byte> cut(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(size));
    auto checked = checkFrame(cut, chain);
    REQUIRE_FALSE(checked.ok());
    CHECK(checked.error().is("WALSHIP_ERR_FRAME_INVALID"));
  }
}

TEST_CASE("every field of a frame is checked, even under a right checksum") {
  const FrameChain chain{1000, 0xabcdef, 7};
  const auto frame = makeFrame(61, chain);
  const auto code = [&](const std::vector<std::byte>& bytes, const FrameChain& before) {
    auto checked = checkFrame(bytes, before);
    return checked.ok() ? std::string("ok") : std::string(checked.error().code);
  };
  const std::string invalid = "WALSHIP_ERR_FRAME_INVALID";
  const std::string broken = "WALSHIP_ERR_FRAME_CHAIN";
  CHECK(code(frame, chain) == "ok");
  CHECK(code(resealed(frame, offsetof(FrameHeader, magic), uint32_t{1}), chain) == invalid);
  CHECK(code(resealed(frame, offsetof(FrameHeader, version), uint16_t{2}), chain) ==
        "WALSHIP_ERR_FRAME_VERSION");
  CHECK(code(resealed(frame, offsetof(FrameHeader, flags), uint16_t{2}), chain) == invalid);
  CHECK(code(resealed(frame, offsetof(FrameHeader, reserved), uint32_t{1}), chain) == invalid);
  for (uint32_t length : {0u, 60u, 62u, 65u, 1u << 22, 0xffff'ffc0u, 0xffff'ffffu}) {
    CHECK(code(resealed(frame, offsetof(FrameHeader, length), length), chain) == invalid);
  }
  CHECK(code(resealed(frame, offsetof(FrameHeader, lsn), UINT64_MAX - 60), {UINT64_MAX - 60, 0xabcdef, 7}) ==
        invalid);
  CHECK(code(resealed(frame, offsetof(FrameHeader, payloadChecksum), uint64_t{1}), chain) == invalid);
  CHECK(code(resealed(frame, offsetof(FrameHeader, lsn), uint64_t{1001}), chain) == broken);
  CHECK(code(resealed(frame, offsetof(FrameHeader, parent), uint64_t{1}), chain) == broken);
  CHECK(code(resealed(frame, offsetof(FrameHeader, epoch), uint64_t{6}), chain) == broken);
  CHECK(code(frame, {999, 0xabcdef, 7}) == broken);
  CHECK(code(frame, {1000, 0xabcdee, 7}) == broken);
  CHECK(code(frame, {1000, 0xabcdef, 8}) == broken);
  CHECK(code(frame, {1000, 0xabcdef, 6}) == "ok");
}

TEST_CASE("the same frame is the same bytes, whatever stood there before") {
  std::vector<std::byte> a(frameBytes(5), std::byte{0x11});
  std::vector<std::byte> b(frameBytes(5), std::byte{0x22});
  for (auto* frame : {&a, &b}) std::memcpy(frame->data() + kFrameHeaderBytes, "hello", 5);
  sealFrame(a, 5, 0, 1, 2, {3, 4, 1});
  sealFrame(b, 5, 0, 1, 2, {3, 4, 1});
  CHECK(a == b);
}

}  // namespace
}  // namespace walship::test

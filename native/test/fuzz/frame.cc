// Frames as they may come from a file or the wire: raw bytes, or a header whose checksums are right and whose
// fields are not, so that the checks behind the checksums are reached too.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/checksum.h"
#include "log/frame.h"
#include "log/page.h"

using namespace walship;

namespace {

template <class T>
void put(std::vector<std::byte>& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

// What a frame that was accepted must be.
void checkAccepted(Bytes bytes, const FrameHeader& header, const FrameChain& chain) {
  WALSHIP_ASSERT(header.length > 0 && frameBytes(header.length) <= bytes.size());
  WALSHIP_ASSERT(header.lsn == chain.lsn && header.parent == chain.headerChecksum &&
                 header.epoch >= chain.epoch);
  WALSHIP_ASSERT(header.lsn + header.length > header.lsn);
  // Sealed anew from its fields it is the same bytes: nothing in it is left to chance.
  std::vector<std::byte> again(bytes.begin(), bytes.begin() + frameBytes(header.length));
  const FrameChain after =
      sealFrame(again, header.length, header.flags, header.epoch, header.madeAtUs, chain);
  WALSHIP_ASSERT(std::equal(again.begin(), again.end(), bytes.begin()));
  WALSHIP_ASSERT(after.headerChecksum == header.headerChecksum && after.lsn == header.lsn + header.length);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t mode = data[0];
  std::vector<std::byte> bytes(size - 1);
  if (!bytes.empty()) std::memcpy(bytes.data(), data + 1, bytes.size());
  if (bytes.size() >= kFrameHeaderBytes) {
    if (mode & 1) {
      put(bytes, offsetof(FrameHeader, magic), kFrameMagic);
      put(bytes, offsetof(FrameHeader, version), kFormatVersion);
    }
    if (mode & 2) put(bytes, offsetof(FrameHeader, flags), static_cast<uint16_t>(mode >> 7));
    if (mode & 4) put(bytes, offsetof(FrameHeader, reserved), uint32_t{0});
    if (mode & 8) {
      put(bytes, offsetof(FrameHeader, length), static_cast<uint32_t>(bytes.size() - kFrameHeaderBytes));
    }
    const auto length = loadAt<uint32_t>(bytes, offsetof(FrameHeader, length));
    if ((mode & 16) && length <= bytes.size() - kFrameHeaderBytes) {
      put(bytes, offsetof(FrameHeader, payloadChecksum),
          checksum(Bytes(bytes).subspan(kFrameHeaderBytes, length)));
    }
    if (mode & 32) {
      put(bytes, offsetof(FrameHeader, headerChecksum),
          checksum(Bytes(bytes).first(offsetof(FrameHeader, headerChecksum))));
    }
    if (mode & 64) bytes.resize(roundUp(bytes.size(), kFrameAlignment));
  }
  auto header = checkFrameHeader(bytes);
  FrameChain chain{1000, 77, 3};
  if (header) {
    WALSHIP_ASSERT(header.value().length > 0 && header.value().length <= kPageBytesMax);
    chain = {header.value().lsn, header.value().parent, header.value().epoch};
  }
  auto frame = checkFrame(bytes, chain);
  WALSHIP_ASSERT(header.ok() || !frame.ok());
  if (!frame) return 0;
  checkAccepted(bytes, frame.value(), chain);
  ++chain.lsn;
  WALSHIP_ASSERT(!checkFrame(bytes, chain));
  --chain.lsn;
  ++chain.headerChecksum;
  WALSHIP_ASSERT(!checkFrame(bytes, chain));
  return 0;
}

#include "log/frame.h"

#include <cstddef>

#include "base/checksum.h"
#include "log/page.h"

namespace walship {

namespace {

constexpr uint32_t kLengthMax = kPageBytesMax - kPageHeaderBytes - kFrameHeaderBytes;

Error invalid(const FrameHeader& header, const std::string& what) {
  return makeError("WALSHIP_ERR_FRAME_INVALID", "frame at LSN " + std::to_string(header.lsn) + ": " + what);
}

Error brokenChain(const FrameHeader& header, const std::string& what) {
  return makeError("WALSHIP_ERR_FRAME_CHAIN",
                   "frame at LSN " + std::to_string(header.lsn) + " does not continue the log: " + what);
}

uint64_t headerChecksumOf(Bytes header) {
  return checksum(header.first(offsetof(FrameHeader, headerChecksum)));
}

}  // namespace

FrameChain sealFrame(MutableBytes frame, uint32_t length, uint16_t flags, uint64_t epoch, uint64_t madeAtUs,
                     const FrameChain& chain) {
  WALSHIP_ASSERT(length > 0 && length <= kLengthMax && frame.size() == frameBytes(length));
  WALSHIP_ASSERT(epoch >= chain.epoch && chain.lsn + length > chain.lsn);
  FrameHeader header{};
  header.magic = kFrameMagic;
  header.version = kFormatVersion;
  header.flags = flags;
  header.epoch = epoch;
  header.lsn = chain.lsn;
  header.length = length;
  header.madeAtUs = madeAtUs;
  header.payloadChecksum = checksum(frame.subspan(kFrameHeaderBytes, length));
  header.parent = chain.headerChecksum;
  header.headerChecksum = headerChecksumOf(bytesOf(header));
  std::memcpy(frame.data(), &header, sizeof header);
  const size_t end = size_t{kFrameHeaderBytes} + length;
  std::memset(frame.data() + end, 0, frame.size() - end);
  return {chain.lsn + length, header.headerChecksum, epoch};
}

Result<FrameHeader> checkFrameHeader(Bytes bytes) {
  if (bytes.size() < kFrameHeaderBytes) {
    return makeError("WALSHIP_ERR_FRAME_INVALID",
                     "frame header is cut short: " + std::to_string(bytes.size()) + " of 64 bytes");
  }
  const auto header = loadAt<FrameHeader>(bytes, 0);
  if (header.magic != kFrameMagic) {
    return makeError("WALSHIP_ERR_FRAME_INVALID", "no frame here: the magic number is wrong");
  }
  if (header.version != kFormatVersion) {
    return makeError("WALSHIP_ERR_FRAME_VERSION",
                     "frame has format version " + std::to_string(header.version) +
                         ", this walship reads version " + std::to_string(kFormatVersion));
  }
  if (header.headerChecksum != headerChecksumOf(bytes)) {
    return invalid(header, "the header checksum does not match");
  }
  if ((header.flags & ~kFrameContinues) != 0) return invalid(header, "unknown bits in flags");
  if (header.reserved != 0) return invalid(header, "reserved is not zero");
  if (header.length == 0 || header.length > kLengthMax) {
    return invalid(header, "length " + std::to_string(header.length) + " is out of bounds");
  }
  if (header.lsn + header.length < header.lsn) return invalid(header, "lsn + length overflows");
  return header;
}

Result<FrameHeader> checkFrame(Bytes bytes, const FrameChain& chain) {
  auto checked = checkFrameHeader(bytes);
  if (!checked) return checked;
  const FrameHeader& header = checked.value();
  if (header.lsn != chain.lsn) return brokenChain(header, "the next LSN is " + std::to_string(chain.lsn));
  if (header.parent != chain.headerChecksum) {
    return brokenChain(header, "parent is not the header checksum of the frame before");
  }
  if (header.epoch < chain.epoch) {
    return brokenChain(header, "epoch " + std::to_string(header.epoch) + " is older than " +
                                   std::to_string(chain.epoch) + " of the frame before");
  }
  const uint32_t size = frameBytes(header.length);
  if (size > bytes.size()) {
    return invalid(header,
                   "length " + std::to_string(header.length) + " passes the end of the bytes at hand");
  }
  for (size_t at = size_t{kFrameHeaderBytes} + header.length; at < size; ++at) {
    if (bytes[at] != std::byte{0}) return invalid(header, "the padding is not zero");
  }
  if (header.payloadChecksum != checksum(bytes.subspan(kFrameHeaderBytes, header.length))) {
    return invalid(header, "the payload checksum does not match");
  }
  return checked;
}

}  // namespace walship

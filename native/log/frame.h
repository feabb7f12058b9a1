// The frame: unit of append. Header and payload; immutable once the primary has made it; the same bytes in
// memory, on the wire and on disk, on every node.
//
// `parent` is the header checksum of the frame before, so (LSN, header checksum) names a whole history: two
// nodes that agree on that pair agree on every byte before it.
#pragma once

#include "base/bytes.h"
#include "base/result.h"

namespace walship {

constexpr uint32_t kFrameMagic = 0x31465357;  // "WSF1"
constexpr uint16_t kFormatVersion = 1;
constexpr uint32_t kFrameAlignment = 8;

// The last append in this frame continues in the next one (it was split at a page end or at the frame limit).
constexpr uint16_t kFrameContinues = 1;

struct FrameHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t flags;
  uint64_t epoch;
  uint64_t lsn;              // of the payload's first byte
  uint32_t length;           // of the payload, bytes; never 0
  uint32_t reserved;         // 0
  uint64_t madeAtUs;         // wall clock of the primary when the frame was sealed, Unix microseconds
  uint64_t payloadChecksum;  // XXH3-64
  uint64_t parent;           // header checksum of the frame before; 0 for the first frame of a log
  uint64_t headerChecksum;   // XXH3-64 of the fields above
};
static_assert(sizeof(FrameHeader) == 64);

constexpr uint32_t kFrameHeaderBytes = sizeof(FrameHeader);

// Bytes that a frame with `length` payload bytes takes in its page, padding (zeros) included.
constexpr uint32_t frameBytes(uint32_t length) {
  return static_cast<uint32_t>(roundUp(kFrameHeaderBytes + uint64_t{length}, kFrameAlignment));
}

// Where a chain of frames stands: what the next frame must continue.
struct FrameChain {
  uint64_t lsn = 0;             // the next frame's lsn
  uint64_t headerChecksum = 0;  // the next frame's parent
  uint64_t epoch = 0;           // the next frame's epoch is at least this
};

// Writes the header (checksums included) in front of the payload that already stands at `frame +
// kFrameHeaderBytes`, zeroes the padding behind it, and gives back the chain after it. `frame` spans exactly
// frameBytes(length).
FrameChain sealFrame(MutableBytes frame, uint32_t length, uint16_t flags, uint64_t epoch, uint64_t madeAtUs,
                     const FrameChain& chain);

// Checks the frame that begins at `bytes[0]` (magic, version, header checksum, bounds, alignment padding,
// chain, payload checksum) against `chain`. `bytes` may extend beyond the frame. Never reads outside of
// `bytes`. Errors: WALSHIP_ERR_FRAME_INVALID, WALSHIP_ERR_FRAME_VERSION, WALSHIP_ERR_FRAME_CHAIN; the message
// names the field.
Result<FrameHeader> checkFrame(Bytes bytes, const FrameChain& chain);

// Header only: magic, version, length bounds, header checksum; no chain, no payload.
Result<FrameHeader> checkFrameHeader(Bytes bytes);

}  // namespace walship

// What the link puts around messages and ranges.
#pragma once

#include <optional>

#include "fabric/link.h"

namespace walship {

enum class MessageKind : uint8_t {
  kMessage = 1,
  kCredits = 2,  // header alone
  kPing = 3,     // set-up only: fills one packet of the path MTU
};

struct MessageHeader {
  uint8_t kind;
  uint8_t reserved;  // 0
  uint16_t credits;  // receive buffers posted again since this end last said so
  uint32_t length;   // of what follows
};
static_assert(sizeof(MessageHeader) == 8);

constexpr uint32_t kSlotBytes = kMessageBytesMax + sizeof(MessageHeader);

// `bytes`: as received. Pure; nothing: no walship node sends this.
inline std::optional<MessageHeader> parseMessage(Bytes bytes) {
  if (bytes.size() < sizeof(MessageHeader)) return std::nullopt;
  const auto header = loadAt<MessageHeader>(bytes, 0);
  if (header.reserved != 0 || header.length != bytes.size() - sizeof header) return std::nullopt;
  switch (static_cast<MessageKind>(header.kind)) {
    case MessageKind::kMessage: return header;
    case MessageKind::kCredits: return header.length == 0 ? std::optional(header) : std::nullopt;
    case MessageKind::kPing: return header.credits == 0 ? std::optional(header) : std::nullopt;
  }
  return std::nullopt;
}

// The immediate of a range: the low half of its grant's id, and credits. At most 2^15 grants are outstanding,
// so the low half names one of them.
struct Immediate {
  uint16_t grant = 0;
  uint16_t credits = 0;

  static Immediate parse(uint32_t value) {
    return {static_cast<uint16_t>(value >> 16), static_cast<uint16_t>(value)};
  }
  uint32_t pack() const { return uint32_t{grant} << 16 | credits; }
};

constexpr uint32_t kGrantsMax = 1u << 15;

}  // namespace walship

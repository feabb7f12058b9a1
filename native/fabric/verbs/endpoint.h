// What two ends tell each other over the control connection before their queue pairs can talk: records of a
// header and a body. The peer is authenticated by then, and its bytes are still checked like anybody's.
#pragma once

#include <string>

#include "base/wire.h"
#include "fabric/link.h"
#include "fabric/verbs/settings.h"

namespace walship {

// The smallest and largest number of receive buffers a link may have (fits the credits of an immediate).
constexpr uint32_t kReceiveDepthMin = 16;
constexpr uint32_t kReceiveDepthMax = 16384;

struct Endpoint {
  Gid gid{};
  uint32_t queuePair = 0;       // 24 bits
  uint32_t packetSequence = 0;  // 24 bits: of the first packet this end sends
  uint32_t pathMtuBytes = 0;    // 256 … 4096
  uint32_t receiveDepth = 0;    // buffers posted: the credits of the other end
  uint16_t lid = 0;             // 0 on Ethernet
};

enum class RecordKind : uint16_t {
  kEndpoint = 1,
  kReady = 2,    // the queue pair can receive
  kDone = 3,     // the peer's packet has come and mine was acknowledged
  kFailure = 4,  // body: why this end gives up
};

struct RecordHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t kind;
  uint32_t bodyBytes;
  uint32_t reserved;  // 0
};
static_assert(sizeof(RecordHeader) == 16);

constexpr uint32_t kRecordMagic = 0x31565357;  // "WSV1"
constexpr uint16_t kRecordVersion = 1;
constexpr uint32_t kRecordBodyMax = 512;

// A whole record; `body` ≤ kRecordBodyMax.
Buffer makeRecord(RecordKind kind, Bytes body);
// The body of an endpoint's record.
Buffer encodeEndpoint(const Endpoint& endpoint);

// Pure; errors: WALSHIP_ERR_LINK_PROTOCOL. parseEndpoint takes a record's body.
Result<RecordHeader> parseRecordHeader(Bytes bytes);
Result<Endpoint> parseEndpoint(Bytes body);
// A failure's text as it can be shown to people.
std::string parseFailure(Bytes body);

}  // namespace walship

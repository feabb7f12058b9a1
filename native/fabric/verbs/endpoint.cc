#include "fabric/verbs/endpoint.h"

#include <algorithm>

namespace walship {
namespace {

struct EndpointBody {
  Gid gid;
  uint32_t queuePair;
  uint32_t packetSequence;
  uint32_t pathMtuBytes;
  uint32_t receiveDepth;
  uint32_t messageBytesMax;  // as both were built
  uint16_t lid;
  uint16_t reserved;  // 0
};
static_assert(sizeof(EndpointBody) == 40);

constexpr uint32_t k24Bits = 0xffffff;

Error bad(const std::string& what) {
  return makeError("WALSHIP_ERR_LINK_PROTOCOL", "the peer's RDMA set-up record is not valid: " + what);
}

}  // namespace

Buffer makeRecord(RecordKind kind, Bytes body) {
  WALSHIP_ASSERT(body.size() <= kRecordBodyMax);
  const RecordHeader header{kRecordMagic, kRecordVersion, static_cast<uint16_t>(kind),
                            static_cast<uint32_t>(body.size()), 0};
  Buffer record;
  putValue(record, header);
  put(record, body);
  return record;
}

Buffer encodeEndpoint(const Endpoint& endpoint) {
  const EndpointBody body{endpoint.gid,
                          endpoint.queuePair,
                          endpoint.packetSequence,
                          endpoint.pathMtuBytes,
                          endpoint.receiveDepth,
                          kMessageBytesMax,
                          endpoint.lid,
                          0};
  Buffer bytes;
  putValue(bytes, body);
  return bytes;
}

Result<RecordHeader> parseRecordHeader(Bytes bytes) {
  if (bytes.size() != sizeof(RecordHeader))
    return bad("its header has " + std::to_string(bytes.size()) + " bytes");
  const auto header = loadAt<RecordHeader>(bytes, 0);
  if (header.magic != kRecordMagic) return bad("unknown magic");
  if (header.version != kRecordVersion) {
    return bad("version " + std::to_string(header.version) + ", this node speaks " +
               std::to_string(kRecordVersion));
  }
  if (header.kind < static_cast<uint16_t>(RecordKind::kEndpoint) ||
      header.kind > static_cast<uint16_t>(RecordKind::kFailure)) {
    return bad("unknown kind " + std::to_string(header.kind));
  }
  if (header.bodyBytes > kRecordBodyMax)
    return bad("a body of " + std::to_string(header.bodyBytes) + " bytes");
  if (header.reserved != 0) return bad("reserved bits are set");
  return header;
}

Result<Endpoint> parseEndpoint(Bytes bytes) {
  if (bytes.size() != sizeof(EndpointBody))
    return bad("an endpoint of " + std::to_string(bytes.size()) + " bytes");
  const auto body = loadAt<EndpointBody>(bytes, 0);
  if (body.gid == Gid{}) return bad("no GID");
  // 0 and 1 are the management queue pairs, all ones is multicast.
  if (body.queuePair < 2 || body.queuePair >= k24Bits)
    return bad("queue pair " + std::to_string(body.queuePair));
  if (body.packetSequence > k24Bits) return bad("packet sequence " + std::to_string(body.packetSequence));
  if (body.pathMtuBytes < 256 || body.pathMtuBytes > 4096 || !std::has_single_bit(body.pathMtuBytes)) {
    return bad("path MTU " + std::to_string(body.pathMtuBytes));
  }
  if (body.receiveDepth < kReceiveDepthMin || body.receiveDepth > kReceiveDepthMax ||
      body.receiveDepth % 4 != 0) {
    return bad("receive depth " + std::to_string(body.receiveDepth));
  }
  if (body.messageBytesMax != kMessageBytesMax)
    return bad("messages of " + std::to_string(body.messageBytesMax));
  if (body.reserved != 0) return bad("reserved bits are set");
  return Endpoint{body.gid,          body.queuePair,    body.packetSequence,
                  body.pathMtuBytes, body.receiveDepth, body.lid};
}

std::string parseFailure(Bytes body) {
  std::string text(reinterpret_cast<const char*>(body.data()), body.size());
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

}  // namespace walship

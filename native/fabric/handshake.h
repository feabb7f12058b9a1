// The first exchange on every connection: both sides prove that they know the cluster secret, without sending it, and
// agree on the protocol version, the cluster and the transport.
//
//   connector → listener   Hello      magic, version, cluster id, node id, nonce, transports offered
//   listener → connector   Challenge  version, node id, nonce, transport chosen, proof of the listener
//                          or a Refusal: code and sentence
//   connector → listener   Proof      proof of the connector
//   listener → connector   Verdict    accepted, or a Refusal
//
// proof = HMAC-SHA-256(secret, label of the side ‖ Hello ‖ Challenge without its proof): bound to both nonces, both
// names and the side, so that it can be neither replayed nor reflected. The connection is not encrypted afterwards.
#pragma once

#include <array>
#include <string>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"

namespace walship {

constexpr uint16_t kProtocolVersion = 3;
constexpr size_t kNameBytesMax = 64;  // cluster id, node id

enum Transport : uint8_t { kTransportTcp = 1, kTransportVerbs = 2 };  // bits of an offer

struct Identity {
  std::string cluster;
  std::string node;
  std::string secret;
  uint8_t transports = kTransportTcp;
};

struct Peer {
  std::string node;
  Transport transport = kTransportTcp;
};

// Both block until done or `deadlineNs`. Errors: WALSHIP_ERR_AUTH (wrong secret), WALSHIP_ERR_CLUSTER (wrong cluster),
// WALSHIP_ERR_NODE (own node id on the other side, or not the node expected), WALSHIP_ERR_PROTOCOL (not walship),
// WALSHIP_ERR_PROTOCOL_VERSION, WALSHIP_ERR_TIMEOUT, WALSHIP_ERR_LINK_CLOSED.
// `expectedNode`: empty for any.
Result<Peer> shakeHandsAsConnector(int fd, const Identity& identity, const std::string& expectedNode,
                                   uint64_t deadlineNs);
Result<Peer> shakeHandsAsListener(int fd, const Identity& identity, uint64_t deadlineNs);

// ---- the messages, as pure functions ----
struct Hello {
  uint16_t version = kProtocolVersion;
  uint8_t transports = 0;
  std::array<std::byte, 32> nonce{};
  std::string cluster;
  std::string node;
};
struct Challenge {
  uint16_t version = kProtocolVersion;
  uint8_t transport = 0;
  std::array<std::byte, 32> nonce{};
  std::string node;
  std::array<std::byte, 32> proof{};
};
struct Refusal {
  std::string code;
  std::string message;
};

// A set-up message on the wire: magic u32, type u8, version u16, length u16, then `length` bytes.
constexpr size_t kSetupHeaderBytes = 9;
constexpr size_t kSetupBytesMax = 1024;
Result<Hello> parseHello(Bytes body);
Result<Challenge> parseChallenge(Bytes body);
Result<Refusal> parseRefusal(Bytes body);

}  // namespace walship

#include "fabric/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <algorithm>
#include <vector>

#include "base/wire.h"
#include "fabric/socket.h"

namespace walship {

namespace {

constexpr uint32_t kSetupMagic = 0x50485357;  // "WSHP"
enum SetupType : uint8_t { kHello = 1, kChallenge = 2, kProof = 3, kVerdict = 4, kRefusal = 5 };
using Proof = std::array<std::byte, 32>;

struct SetupMessage {
  uint8_t type;
  uint16_t version;
  Buffer body;
};

Error protocolError(const std::string& what) {
  return makeError("WALSHIP_ERR_PROTOCOL", "the peer does not speak walship's protocol: " + what);
}

Buffer encodeHello(const Hello& hello) {
  Buffer body;
  put(body, bytesOf(hello.transports));
  put(body, hello.nonce);
  putName(body, hello.cluster);
  putName(body, hello.node);
  return body;
}

// Everything but the proof: what the proofs are bound to.
Buffer encodeChallenge(const Challenge& challenge) {
  Buffer body;
  put(body, bytesOf(challenge.transport));
  put(body, challenge.nonce);
  putName(body, challenge.node);
  return body;
}

Proof prove(const std::string& secret, const char* label, Bytes hello, Bytes challenge) {
  const size_t labelBytes = std::strlen(label);
  Buffer text;
  text.reserve(labelBytes + hello.size() + challenge.size());
  put(text, std::as_bytes(std::span(label, labelBytes)));
  put(text, hello);
  put(text, challenge);
  Proof proof{};
  unsigned length = 0;
  const auto* made = ::HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                            reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                            reinterpret_cast<unsigned char*>(proof.data()), &length);
  WALSHIP_ASSERT(made != nullptr && length == proof.size());
  return proof;
}

bool sameProof(const Proof& one, const Proof& other) {
  return ::CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

Result<void> makeNonce(std::array<std::byte, 32>& nonce) {
  if (::getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size())) {
    return systemError("WALSHIP_ERR_INTERNAL", "no random bytes for the challenge", errno);
  }
  return {};
}

Result<void> sendSetup(int fd, SetupType type, Bytes body, uint64_t deadlineNs) {
  Buffer message;
  message.reserve(kSetupHeaderBytes + body.size());
  const auto length = static_cast<uint16_t>(body.size());
  put(message, bytesOf(kSetupMagic));
  put(message, bytesOf(type));
  put(message, bytesOf(kProtocolVersion));
  put(message, bytesOf(length));
  put(message, body);
  return writeFully(fd, message, deadlineNs);
}

Result<SetupMessage> receiveSetup(int fd, uint64_t deadlineNs) {
  std::array<std::byte, kSetupHeaderBytes> header{};
  if (auto read = readFully(fd, header, deadlineNs); !read) return read.error();
  if (loadAt<uint32_t>(header, 0) != kSetupMagic) return protocolError("wrong magic");
  SetupMessage message{loadAt<uint8_t>(header, 4), loadAt<uint16_t>(header, 5), {}};
  const auto length = loadAt<uint16_t>(header, 7);
  if (length > kSetupBytesMax) return protocolError("set-up message too long");
  message.body.resize(length);
  if (auto read = readFully(fd, message.body, deadlineNs); !read) return read.error();
  return message;
}

// Only codes that a set-up can end with are taken over from the wire: codes are compared as literals elsewhere.
const char* knownCode(const std::string& code) {
  for (const char* known : {"WALSHIP_ERR_AUTH", "WALSHIP_ERR_CLUSTER", "WALSHIP_ERR_NODE", "WALSHIP_ERR_PROTOCOL",
                            "WALSHIP_ERR_PROTOCOL_VERSION", "WALSHIP_ERR_TRANSPORT"}) {
    if (code == known) return known;
  }
  return "WALSHIP_ERR_REFUSED";
}

Error errorOf(const SetupMessage& message, const char* expected) {
  if (message.type == kRefusal) {
    if (auto refusal = parseRefusal(message.body)) {
      return makeError(knownCode(refusal.value().code), "the other node refused: " + refusal.value().message);
    }
  }
  return protocolError(std::string("expected ") + expected);
}

// Tells the peer why (best effort) and gives the error back for the caller to return.
Error refuse(int fd, Error error, uint64_t deadlineNs) {
  Buffer body;
  putName(body, error.code);
  putName(body, error.message.substr(0, 255));
  static_cast<void>(sendSetup(fd, kRefusal, body, deadlineNs));
  return error;
}

Error versionError(uint16_t theirs) {
  return makeError("WALSHIP_ERR_PROTOCOL_VERSION", "protocol version " + std::to_string(theirs) +
                                                       " met version " + std::to_string(kProtocolVersion) +
                                                       "; bring both nodes to the same walship release");
}

}  // namespace

Result<Hello> parseHello(Bytes body) {
  Hello hello;
  WireReader reader(body);
  if (!reader.take(hello.transports) || !reader.take(MutableBytes(hello.nonce)) ||
      !reader.takeName(hello.cluster, kNameBytesMax) || !reader.takeName(hello.node, kNameBytesMax) || !reader.done() ||
      hello.node.empty()) {
    return protocolError("malformed hello");
  }
  return hello;
}

Result<Challenge> parseChallenge(Bytes body) {
  Challenge challenge;
  WireReader reader(body);
  if (!reader.take(challenge.transport) || !reader.take(MutableBytes(challenge.nonce)) ||
      !reader.takeName(challenge.node, kNameBytesMax) || !reader.take(MutableBytes(challenge.proof)) ||
      !reader.done()) {
    return protocolError("malformed challenge");
  }
  return challenge;
}

Result<Refusal> parseRefusal(Bytes body) {
  Refusal refusal;
  WireReader reader(body);
  if (!reader.takeName(refusal.code, kNameBytesMax) || !reader.takeName(refusal.message, 255) || !reader.done()) {
    return protocolError("malformed refusal");
  }
  return refusal;
}

Result<Peer> shakeHandsAsConnector(int fd, const Identity& identity, const std::string& expectedNode,
                                   uint64_t deadlineNs) {
  Hello hello;
  hello.transports = identity.transports;
  hello.cluster = identity.cluster;
  hello.node = identity.node;
  if (auto made = makeNonce(hello.nonce); !made) return made.error();
  const Buffer helloBody = encodeHello(hello);
  if (auto sent = sendSetup(fd, kHello, helloBody, deadlineNs); !sent) return sent.error();

  auto answer = receiveSetup(fd, deadlineNs);
  if (!answer) return answer.error();
  if (answer.value().type == kRefusal) return errorOf(answer.value(), "a challenge");
  if (answer.value().version != kProtocolVersion) return versionError(answer.value().version);
  if (answer.value().type != kChallenge) return errorOf(answer.value(), "a challenge");
  auto parsed = parseChallenge(answer.value().body);
  if (!parsed) return parsed.error();
  const Challenge& challenge = parsed.value();
  const Buffer challengeBody = encodeChallenge(challenge);
  if (!sameProof(challenge.proof, prove(identity.secret, "walship listener", helloBody, challengeBody))) {
    return refuse(fd, makeError("WALSHIP_ERR_AUTH", "node '" + challenge.node + "' has another cluster secret"),
                  deadlineNs);
  }
  if (!expectedNode.empty() && challenge.node != expectedNode) {
    return refuse(fd,
                  makeError("WALSHIP_ERR_NODE", "expected node '" + expectedNode + "' but node '" + challenge.node +
                                                    "' answered; check the upstream's address"),
                  deadlineNs);
  }
  if ((challenge.transport & identity.transports) == 0) return protocolError("a transport that was not offered");

  const Proof proof = prove(identity.secret, "walship connector", helloBody, challengeBody);
  if (auto sent = sendSetup(fd, kProof, proof, deadlineNs); !sent) return sent.error();
  auto verdict = receiveSetup(fd, deadlineNs);
  if (!verdict) return verdict.error();
  if (verdict.value().type != kVerdict) return errorOf(verdict.value(), "a verdict");
  return Peer{challenge.node, static_cast<Transport>(challenge.transport)};
}

Result<Peer> shakeHandsAsListener(int fd, const Identity& identity, uint64_t deadlineNs) {
  auto first = receiveSetup(fd, deadlineNs);
  if (!first) return first.error();
  if (first.value().version != kProtocolVersion) return refuse(fd, versionError(first.value().version), deadlineNs);
  if (first.value().type != kHello) return errorOf(first.value(), "a hello");
  auto parsed = parseHello(first.value().body);
  if (!parsed) return parsed.error();
  const Hello& hello = parsed.value();
  if (hello.cluster != identity.cluster) {
    return refuse(fd,
                  makeError("WALSHIP_ERR_CLUSTER", "node '" + hello.node + "' of cluster '" + hello.cluster +
                                                       "' met a node of cluster '" + identity.cluster + "'"),
                  deadlineNs);
  }
  if (hello.node == identity.node) {
    return refuse(
        fd, makeError("WALSHIP_ERR_NODE", "both sides are named '" + hello.node + "'; node ids must differ"), deadlineNs);
  }
  const uint8_t common = hello.transports & identity.transports;
  if (common == 0) {
    return refuse(fd, makeError("WALSHIP_ERR_TRANSPORT", "no common transport: one side insists on verbs, the other on tcp"),
                  deadlineNs);
  }

  Challenge challenge;
  challenge.transport = (common & kTransportVerbs) != 0 ? kTransportVerbs : kTransportTcp;
  challenge.node = identity.node;
  if (auto made = makeNonce(challenge.nonce); !made) return made.error();
  Buffer body = encodeChallenge(challenge);
  const Proof expected = prove(identity.secret, "walship connector", first.value().body, body);
  put(body, prove(identity.secret, "walship listener", first.value().body, body));
  if (auto sent = sendSetup(fd, kChallenge, body, deadlineNs); !sent) return sent.error();

  auto answer = receiveSetup(fd, deadlineNs);
  if (!answer) return answer.error();
  if (answer.value().type != kProof) return errorOf(answer.value(), "a proof");
  Proof proof{};
  if (!WireReader(answer.value().body).take(MutableBytes(proof)) || answer.value().body.size() != proof.size() ||
      !sameProof(proof, expected)) {
    return refuse(fd, makeError("WALSHIP_ERR_AUTH", "node '" + hello.node + "' has another cluster secret"), deadlineNs);
  }
  if (auto sent = sendSetup(fd, kVerdict, {}, deadlineNs); !sent) return sent.error();
  return Peer{hello.node, static_cast<Transport>(challenge.transport)};
}

}  // namespace walship

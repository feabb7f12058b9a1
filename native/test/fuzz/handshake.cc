// The bodies of the set-up messages, before anybody has proved anything.
#include "fabric/handshake.h"

using namespace walship;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  if (const auto hello = parseHello(bytes)) {
    WALSHIP_ASSERT(!hello.value().node.empty() && hello.value().node.size() <= kNameBytesMax);
  }
  if (const auto challenge = parseChallenge(bytes)) WALSHIP_ASSERT(challenge.value().node.size() <= kNameBytesMax);
  if (const auto refusal = parseRefusal(bytes)) WALSHIP_ASSERT(refusal.value().message.size() <= 255);
  return 0;
}

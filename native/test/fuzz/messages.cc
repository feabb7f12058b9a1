// Whatever arrives, decoding ends in a message or an error; what was decoded encodes to the same bytes again.
#include "replication/messages.h"

using namespace walship;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto message = decodeMessage(bytes);
  if (!message) return 0;
  const Buffer again = std::visit([](const auto& each) { return encode(each); }, message.value());
  WALSHIP_ASSERT(again.size() == size && std::memcmp(again.data(), data, size) == 0);
  return 0;
}

// What the verbs link takes from the network: the records of its set-up and the headers of its messages.
#include <algorithm>

#include "fabric/verbs/endpoint.h"
#include "fabric/verbs/wire.h"

using namespace walship;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  if (const auto header = parseRecordHeader(bytes)) WALSHIP_ASSERT(header.value().bodyBytes <= kRecordBodyMax);
  if (const auto endpoint = parseEndpoint(bytes)) {
    const Buffer again = encodeEndpoint(endpoint.value());
    WALSHIP_ASSERT(again.size() == size && std::equal(again.begin(), again.end(), bytes.begin()));
  }
  for (const char c : parseFailure(bytes)) WALSHIP_ASSERT(c >= ' ' && c <= '~');
  if (const auto header = parseMessage(bytes)) WALSHIP_ASSERT(header->length + sizeof *header == size);
  return 0;
}

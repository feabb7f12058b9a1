// Records as they may stand in a log: raw bytes, or a record whose sums are right and whose fields are not, so that the
// checks behind the sums are reached too.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/checksum.h"
#include "databases/sqlite/record.h"

using namespace walship;

namespace {

// What a record that was accepted must be.
void checkAccepted(Bytes bytes, const PageRecord& record) {
  const PageRecordHeader& header = record.header();
  WALSHIP_ASSERT(header.recordBytes == bytes.size() && isSqlitePageBytes(header.pageBytes));
  const bool sized = header.last() || header.type != PageRecordType::transaction;
  WALSHIP_ASSERT(sized == (header.databasePages != 0) && header.first() == (header.part == 0));
  WALSHIP_ASSERT(!header.copy() || header.noChange());
  for (uint32_t index = 0; index < header.pageCount; ++index) {
    WALSHIP_ASSERT(record.page(index) != 0 && record.image(index).size() == header.pageBytes);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::vector<std::byte> bytes(size - 1);
  std::copy_n(reinterpret_cast<const std::byte*>(data + 1), bytes.size(), bytes.begin());
  if ((data[0] & 1) != 0 && bytes.size() >= kPageRecordHeaderBytes) {
    const uint64_t bodySum = checksum(Bytes(bytes).subspan(kPageRecordHeaderBytes));
    std::memcpy(bytes.data() + kPageRecordHeaderBytes - 16, &bodySum, sizeof bodySum);
    const uint64_t headerSum = checksum(Bytes(bytes).first(kPageRecordHeaderBytes - 8));
    std::memcpy(bytes.data() + kPageRecordHeaderBytes - 8, &headerSum, sizeof headerSum);
  }
  if (auto record = parsePageRecord(bytes)) checkAccepted(bytes, record.value());
  return 0;
}

// Pages as they may come from a file or the wire: built from the input frame by frame, some with wrong fields
// under right checksums, then with bytes of the input written over them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/checksum.h"
#include "log/page.h"

using namespace walship;

namespace {

const Geometry kGeometry{kPageBytesMin, 4, 77};
constexpr uint64_t kPage = 9;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return at_ >= size_; }
  uint8_t byte() { return empty() ? 0 : data_[at_++]; }
  uint16_t two() {
    const uint16_t low = byte();
    return static_cast<uint16_t>(low | byte() << 8);
  }
  uint64_t eight() {
    uint64_t value = 0;
    for (int index = 0; index < 4; ++index) value = value << 16 | two();
    return value;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

// Only what was written last time is zeroed: most of a page stays zero.
std::vector<std::byte> page(kPageBytesMin);
size_t used = 0;

void put(size_t offset, Bytes bytes) {
  const size_t count = offset < page.size() ? std::min(bytes.size(), page.size() - offset) : 0;
  std::memcpy(page.data() + offset, bytes.data(), count);
  if (count > 0) used = std::max(used, offset + count);
}

// Writes over one field of the header at `at` and makes its checksum right again.
void forge(Input& input, size_t at, size_t headerBytes, size_t checksumField) {
  const size_t field = input.byte() % (checksumField / 2) * 2;
  put(at + field, bytesOf(input.two()));
  put(at + checksumField, bytesOf(checksum(Bytes(page).subspan(at, checksumField))));
  WALSHIP_ASSERT(checksumField + 8 == headerBytes);
}

void build(Input& input) {
  std::fill_n(page.begin(), used, std::byte{0});
  used = 0;
  const uint8_t kind = input.byte();
  FrameChain chain{input.eight() >> (kind & 32 ? 0 : 16), input.eight(), input.byte()};
  uint64_t epoch = chain.epoch + (kind & 1);
  sealPageHeader(page, kGeometry, kPage + (kind & 2 ? input.two() : 0), epoch, chain);
  used = kPageHeaderBytes;
  if (kind & 4) forge(input, 0, kPageHeaderBytes, offsetof(PageHeader, headerChecksum));
  size_t at = kPageHeaderBytes;
  const int frames = kind >> 6 == 3 ? 40 : kind >> 6;
  for (int count = 0; count < frames && !input.empty(); ++count) {
    const uint8_t how = input.byte();
    const uint32_t length = how & 1 ? 1 + input.two() : 1 + input.byte();
    if (at + frameBytes(length) > page.size() || chain.lsn + length < chain.lsn) break;
    if (how & 2) epoch += input.byte() % 3;
    const MutableBytes frame = MutableBytes(page).subspan(at, frameBytes(length));
    frame[kFrameHeaderBytes] = std::byte{how};
    const FrameChain after = sealFrame(frame, length, how >> 7, epoch, 1, chain);
    used = std::max(used, at + frame.size());
    if ((how & 0x7c) == 0x7c) {
      forge(input, at, kFrameHeaderBytes, offsetof(FrameHeader, headerChecksum));
    } else if ((how & 0x7c) == 0x78) {
      return;  // what follows is not chained to this frame
    }
    chain = after;
    at += frame.size();
  }
  while (!input.empty()) {
    const size_t offset = input.two();
    const uint8_t count = input.byte() % 16;
    for (uint8_t index = 0; index < count; ++index) put(offset + index, bytesOf(input.byte()));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input(data, size);
  build(input);
  auto walked = walkPage(page, kGeometry, kPage);
  const auto header = loadAt<PageHeader>(page, 0);
  const LogPosition start{header.firstLsn, header.parent, header.epoch, kPage, 0};
  if (!walked) {
    WALSHIP_ASSERT(!checkPageHeader(page, kGeometry, kPage));
    WALSHIP_ASSERT(!checkRange(page, kGeometry, start, kGeometry.pageBytes));
    return 0;
  }
  const PageWalk& walk = walked.value();
  WALSHIP_ASSERT(walk.end.offset >= kPageHeaderBytes && walk.end.offset <= kGeometry.pageBytes);
  WALSHIP_ASSERT(walk.clean || walk.problem.offset == walk.end.offset);
  WALSHIP_ASSERT(!walk.clean || allZero(Bytes(page).subspan(walk.end.offset)));

  // What the walk accepted is a range that follows its beginning, and every prefix that ends with a frame is
  // one too.
  auto whole = checkRange(page, kGeometry, start, walk.end.offset);
  WALSHIP_ASSERT(whole.ok() && whole.value() == walk.end);
  LogPosition position{header.firstLsn, header.parent, header.epoch, kPage, kPageHeaderBytes};
  uint64_t payloadBytes = 0;
  forEachFrame(page, 0, walk.end.offset, [&](const FrameHeader& frame, Bytes payload) {
    WALSHIP_ASSERT(frame.lsn == position.lsn && payload.size() == frame.length);
    WALSHIP_ASSERT(boundaryAt(page, walk.end.offset, frame.lsn) == position);
    WALSHIP_ASSERT(boundaryAt(page, walk.end.offset, frame.lsn + frame.length - 1) == position);
    const uint32_t to = position.offset + frameBytes(frame.length);
    auto next = checkRange(page, kGeometry, position, to);
    WALSHIP_ASSERT(next.ok());
    WALSHIP_ASSERT(!checkRange(page, kGeometry, position, to - 1));
    position = next.value();
    payloadBytes += payload.size();
    return true;
  });
  WALSHIP_ASSERT(position == walk.end && walk.end.lsn == header.firstLsn + payloadBytes);
  WALSHIP_ASSERT(boundaryAt(page, walk.end.offset, UINT64_MAX) == walk.end);
  WALSHIP_ASSERT(walk.end.offset == kGeometry.pageBytes ||
                 !checkRange(page, kGeometry, start, kGeometry.pageBytes));
  return 0;
}

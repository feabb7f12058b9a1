#include "databases/sqlite/record.h"

#include <algorithm>
#include <string>

#include "base/checksum.h"

namespace walship {

namespace {

constexpr uint32_t kMagic = 0x52515357;  // "WSQR"
constexpr uint8_t kVersion = 2;

// As it stands in the log.
struct Stored {
  uint32_t magic;
  uint8_t version;
  uint8_t type;
  uint16_t flags;
  uint32_t pageBytes;
  uint32_t databasePages;
  uint32_t pageCount;
  uint32_t part;
  uint64_t commitUs;
  WalSalts salts;
  uint32_t frame;
  WalChecksum sum;
  uint32_t recordBytes;
  uint64_t bodySum;
  uint64_t headerSum;  // of all before it
};
static_assert(sizeof(Stored) == kPageRecordHeaderBytes);

uint64_t headerSumOf(const Stored& stored) { return checksum(bytesOf(stored).first(offsetof(Stored, headerSum))); }

Error invalid(const char* why) {
  return makeError("WALSHIP_ERR_SQLITE_RECORD", std::string("no record of a SQLite transaction: ") + why);
}

}  // namespace

void PageRecordWriter::begin(PageRecordType type, uint32_t pageBytes, bool noChange) {
  WALSHIP_ASSERT(isSqlitePageBytes(pageBytes));
  type_ = type;
  pageBytes_ = pageBytes;
  part_ = 0;
  noChange_ = noChange;
  clear();
}

void PageRecordWriter::takeBack() {
  WALSHIP_ASSERT(part_ > 0 && pages_.empty());
  --part_;
}

void PageRecordWriter::clear() {
  pages_.clear();
  images_.clear();
}

void PageRecordWriter::add(uint32_t page, Bytes image) {
  WALSHIP_ASSERT(page != 0 && image.size() == pageBytes_);
  // A page stands twice in a transaction only when it was spilled: the look back is short or rare.
  const auto known = std::find(pages_.begin(), pages_.end(), page);
  const auto at = static_cast<size_t>(known - pages_.begin()) * pageBytes_;
  if (known == pages_.end()) {
    pages_.push_back(page);
    images_.resize(at + pageBytes_);
  }
  std::copy(image.begin(), image.end(), images_.begin() + static_cast<ptrdiff_t>(at));
}

Bytes PageRecordWriter::finish(bool last, uint32_t databasePages, const WalPlace& place, uint64_t commitUs) {
  WALSHIP_ASSERT(databasePages != 0 || !last);
  const auto bytes = pageRecordBytes(pageCount(), pageBytes_);
  WALSHIP_ASSERT(bytes <= kPageRecordBytesMax);
  record_.resize(bytes);
  const auto body = MutableBytes(record_).subspan(kPageRecordHeaderBytes);
  const auto numbers = std::as_bytes(std::span(pages_));
  std::copy(numbers.begin(), numbers.end(), body.begin());
  std::copy(images_.begin(), images_.end(), body.begin() + static_cast<ptrdiff_t>(numbers.size()));

  Stored stored{};
  stored.magic = kMagic;
  stored.version = kVersion;
  stored.type = static_cast<uint8_t>(type_);
  stored.flags = static_cast<uint16_t>((part_ == 0 ? kPageRecordFirst : 0) | (last ? kPageRecordLast : 0) |
                                       (noChange_ ? kPageRecordNoChange : 0));
  stored.pageBytes = pageBytes_;
  stored.databasePages = last || type_ != PageRecordType::transaction ? databasePages : 0;
  stored.pageCount = pageCount();
  stored.part = part_++;
  stored.commitUs = commitUs;
  stored.salts = place.salts;
  stored.frame = place.frame;
  stored.sum = place.sum;
  stored.recordBytes = static_cast<uint32_t>(bytes);
  stored.bodySum = checksum(body);
  stored.headerSum = headerSumOf(stored);
  std::memcpy(record_.data(), &stored, sizeof stored);
  clear();
  return record_;
}

Result<PageRecordHeader> parsePageRecordHeader(Bytes bytes) {
  WALSHIP_ASSERT(bytes.size() >= kPageRecordHeaderBytes);
  const auto stored = loadAt<Stored>(bytes, 0);
  if (stored.magic != kMagic) return invalid("another magic");
  if (stored.headerSum != headerSumOf(stored)) return invalid("the header's sum");
  if (stored.version != kVersion) return invalid("another version");
  const auto type = static_cast<PageRecordType>(stored.type);
  if (type != PageRecordType::transaction && type != PageRecordType::snapshot && type != PageRecordType::copy) {
    return invalid("another type");
  }
  if ((stored.flags & ~(kPageRecordFirst | kPageRecordLast | kPageRecordNoChange)) != 0) return invalid("unknown flags");
  if (!isSqlitePageBytes(stored.pageBytes)) return invalid("the page size");
  const bool sized = type != PageRecordType::transaction || (stored.flags & kPageRecordLast) != 0;
  if (sized != (stored.databasePages != 0)) return invalid("the database's size");
  if (type == PageRecordType::copy && (stored.flags & kPageRecordNoChange) == 0) return invalid("a copy that changes");
  if (((stored.flags & kPageRecordFirst) != 0) != (stored.part == 0)) return invalid("the part's number");
  if (stored.recordBytes > kPageRecordBytesMax ||
      pageRecordBytes(stored.pageCount, stored.pageBytes) != stored.recordBytes) {
    return invalid("its length");
  }
  PageRecordHeader header;
  header.type = type;
  header.flags = stored.flags;
  header.pageBytes = stored.pageBytes;
  header.databasePages = stored.databasePages;
  header.pageCount = stored.pageCount;
  header.part = stored.part;
  header.commitUs = stored.commitUs;
  header.place = {stored.salts, stored.frame, stored.sum};
  header.recordBytes = stored.recordBytes;
  header.bodySum = stored.bodySum;
  return header;
}

Result<PageRecord> parsePageRecord(Bytes bytes) {
  if (bytes.size() < kPageRecordHeaderBytes) return invalid("too short");
  auto header = parsePageRecordHeader(bytes);
  if (!header) return header.error();
  if (header.value().recordBytes != bytes.size()) return invalid("its length");
  const Bytes body = bytes.subspan(kPageRecordHeaderBytes);
  if (checksum(body) != header.value().bodySum) return invalid("the body's sum");
  const PageRecord view(header.value(), body);
  for (uint32_t index = 0; index < header.value().pageCount; ++index) {
    if (view.page(index) == 0) return invalid("page 0");
  }
  return view;
}

}  // namespace walship

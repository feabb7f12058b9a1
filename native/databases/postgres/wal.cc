#include "databases/postgres/wal.h"

#include <bit>
#include <cstdio>

namespace walship::postgres {

namespace {

constexpr uint16_t kLongHeader = 0x0002;
constexpr uint16_t kKnownFlags = 0x000f;
constexpr uint8_t kCheckpointShutdown = 0x00;
constexpr uint8_t kEndOfRecovery = 0x90;
constexpr uint8_t kShortData = 255;
constexpr size_t kTimelineRecordBytesMax = 512;
constexpr uint32_t kSegmentBytesMin = 1u << 20;
constexpr uint32_t kSegmentBytesMax = 1u << 30;

uint32_t crc32c(uint32_t crc, Bytes bytes) {
  for (const std::byte each : bytes) {
    crc ^= std::to_integer<uint32_t>(each);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
  }
  return crc;
}

Error notWal(uint64_t lsn, const std::string& what) {
  return makeError("WALSHIP_ERR_POSTGRES_WAL", "what stands at " + formatLsn(lsn) + " is no page of PostgreSQL's WAL: " +
                                                   what);
}

}  // namespace

std::string formatLsn(uint64_t lsn) {
  char text[32];
  std::snprintf(text, sizeof text, "%X/%X", static_cast<unsigned>(lsn >> 32), static_cast<unsigned>(lsn));
  return text;
}

std::optional<uint64_t> parseLsn(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  uint64_t lsn = 0;
  for (const std::string_view half : {text.substr(0, slash), text.substr(slash + 1)}) {
    if (half.empty() || half.size() > 8) return std::nullopt;
    uint32_t value = 0;
    for (const char digit : half) {
      const int nibble = digit >= '0' && digit <= '9'   ? digit - '0'
                         : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                         : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                                        : -1;
      if (nibble < 0) return std::nullopt;
      value = value << 4 | static_cast<uint32_t>(nibble);
    }
    lsn = lsn << 32 | value;
  }
  return lsn;
}

uint32_t WalIdentity::majorVersion() const {
  switch (magic) {
    case 0xD10D: return 14;
    case 0xD110: return 15;
    case 0xD113: return 16;
    case 0xD116: return 17;
    case 0xD118: return 18;
    default: return 0;
  }
}

Result<WalPageHeader> parseWalPageHeader(Bytes page, uint64_t lsn) {
  if (page.size() < kWalPageHeaderBytes) return notWal(lsn, "only " + std::to_string(page.size()) + " bytes");
  const bool longHeader = (loadAt<uint16_t>(page, 2) & kLongHeader) != 0;
  const WalPageHeader header{loadAt<uint16_t>(page, 0), loadAt<uint32_t>(page, 4), loadAt<uint64_t>(page, 8),
                             longHeader ? kWalLongHeaderBytes : kWalPageHeaderBytes};
  if (header.magic < 0xD101 || header.magic > 0xD1FF || (loadAt<uint16_t>(page, 2) & ~kKnownFlags) != 0) {
    return notWal(lsn, "the page's magic number or flags are unknown");
  }
  if (header.lsn != lsn) return notWal(lsn, "the page says that it stands at " + formatLsn(header.lsn));
  if (header.timeline == 0) return notWal(lsn, "the page is of no timeline");
  return header;
}

Result<WalIdentity> parseSegmentStart(Bytes page, uint64_t lsn) {
  auto header = parseWalPageHeader(page, lsn);
  if (!header) return header.error();
  if (page.size() < kWalLongHeaderBytes || (loadAt<uint16_t>(page, 2) & kLongHeader) == 0) {
    return notWal(lsn, "it does not begin a segment");
  }
  WalIdentity identity;
  identity.magic = header.value().magic;
  identity.timeline = header.value().timeline;
  identity.systemId = loadAt<uint64_t>(page, 24);
  identity.segmentBytes = loadAt<uint32_t>(page, 32);
  if (!std::has_single_bit(identity.segmentBytes) || identity.segmentBytes < kSegmentBytesMin ||
      identity.segmentBytes > kSegmentBytesMax || lsn % identity.segmentBytes != 0) {
    return notWal(lsn, "a segment size of " + std::to_string(identity.segmentBytes) + " bytes");
  }
  if (loadAt<uint32_t>(page, 36) != kWalPageBytes) {
    return notWal(lsn, "a page size of " + std::to_string(loadAt<uint32_t>(page, 36)) + " bytes, where only 8192 is known");
  }
  return identity;
}

// A record: length u32, transaction u32, previous record u64, info u8, resource manager u8, 2 zeros, CRC-32C u32 of
// what follows and then of what stands before it.
TimelineRecord looksLikeTimelineRecord(Bytes record) {
  if (record.size() < kRecordHeaderBytes) return {};
  const auto length = loadAt<uint32_t>(record, 0);
  const auto info = static_cast<uint8_t>(loadAt<uint8_t>(record, 16) & 0xf0);
  const bool kind = loadAt<uint8_t>(record, 17) == 0 && (info == kCheckpointShutdown || info == kEndOfRecovery);
  if (!kind || length < kRecordHeaderBytes + 2 + 16 || length > kTimelineRecordBytesMax) return {};
  return {length};
}

std::optional<uint32_t> timelineInRecord(Bytes record) {
  const size_t length = looksLikeTimelineRecord(record).bytes;
  if (length == 0 || record.size() < length) return std::nullopt;
  const uint32_t crc =
      crc32c(crc32c(0xffffffff, record.subspan(kRecordHeaderBytes, length - kRecordHeaderBytes)), record.first(20)) ^ 0xffffffff;
  if (crc != loadAt<uint32_t>(record, 20) || loadAt<uint8_t>(record, kRecordHeaderBytes) != kShortData) return std::nullopt;
  // Both kinds have a u64 first, then the timeline and the one before.
  const auto timeline = loadAt<uint32_t>(record, kRecordHeaderBytes + 2 + 8);
  const auto previous = loadAt<uint32_t>(record, kRecordHeaderBytes + 2 + 12);
  if (timeline == previous) return std::nullopt;
  return timeline;
}

std::string walFileName(uint32_t timeline, uint64_t lsn, uint32_t segmentBytes) {
  const uint64_t segment = lsn / segmentBytes;
  const uint64_t perName = (uint64_t{1} << 32) / segmentBytes;
  char text[40];
  std::snprintf(text, sizeof text, "%08X%08X%08X", timeline, static_cast<unsigned>(segment / perName),
                static_cast<unsigned>(segment % perName));
  return text;
}

}  // namespace walship::postgres

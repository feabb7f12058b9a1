#include "databases/postgres/timelines.h"

#include <thread>

#include "base/clock.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kSegmentStep = 1u << 20;  // the smallest segment there can be
constexpr uint64_t kArenaPatienceNs = 10'000'000'000;

}  // namespace

Result<void> readLog(Engine& engine, uint64_t lsn, MutableBytes into) {
  const uint64_t end = lsn + into.size();
  const uint64_t deadlineNs = monotonicNs() + kArenaPatienceNs;
  while (lsn < end) {
    auto chunk = engine.read(lsn, end, true);
    if (!chunk) {
      // Every page of the arena is in use at this instant.
      if (!chunk.error().is("WALSHIP_ERR_ARENA_BUSY") || monotonicNs() > deadlineNs) return chunk.error();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    if (!chunk.value()) return makeError("WALSHIP_ERR_LOG_POSITION", formatLsn(lsn) + " is behind the log's end");
    const auto& bytes = chunk.value()->bytes;
    std::memcpy(into.data() + (into.size() - (end - lsn)), bytes.data(), bytes.size());
    lsn += bytes.size();
  }
  return {};
}

Result<std::optional<WalIdentity>> identityOf(Engine& engine) {
  const uint64_t first = engine.log().firstLsn();
  const uint64_t tail = engine.store().receivedLsn();
  std::byte page[kWalLongHeaderBytes];
  for (uint64_t lsn = roundUp(first, kSegmentStep); lsn + sizeof page <= tail; lsn += kSegmentStep) {
    if (auto read = readLog(engine, lsn, page); !read) return read.error();
    if (allZero(page)) continue;
    auto header = parseWalPageHeader(page, lsn);
    if (!header) return header.error();
    if (auto identity = parseSegmentStart(page, lsn); identity) return std::optional(identity.value());
  }
  return std::optional<WalIdentity>{};
}

namespace {

// The header of the page at `page`. none: it is not in the log, or the page is empty, as all are behind a switch of
// segments.
Result<std::optional<WalPageHeader>> headerAt(Engine& engine, uint64_t page) {
  std::byte bytes[kWalPageHeaderBytes];
  if (page < engine.log().firstLsn() || page + sizeof bytes > engine.store().receivedLsn()) {
    return std::optional<WalPageHeader>{};
  }
  if (auto read = readLog(engine, page, bytes); !read) return read.error();
  if (allZero(bytes)) return std::optional<WalPageHeader>{};
  auto header = parseWalPageHeader(bytes, page);
  if (!header) return header.error();
  return std::optional(header.value());
}

// Bytes of a record that begins at `lsn`, without the page headers in between; fewer if not all of it is below `end`.
Result<std::vector<std::byte>> recordBytes(Engine& engine, uint64_t lsn, uint64_t end, size_t count) {
  std::vector<std::byte> bytes;
  while (bytes.size() < count && lsn < end) {
    if (lsn % kWalPageBytes == 0) {
      auto header = headerAt(engine, lsn);
      if (!header) return header.error();
      if (!header.value() && lsn + kWalPageHeaderBytes > end) break;
      if (!header.value()) {
        // An empty page, as all are behind a switch of segments: no record begins here, ever.
        bytes.resize(count);
        break;
      }
      lsn += header.value()->bytes;
      if (lsn >= end) break;
    }
    const size_t step = std::min({count - bytes.size(), size_t{kWalPageBytes - lsn % kWalPageBytes}, size_t{end - lsn}});
    const size_t had = bytes.size();
    bytes.resize(had + step);
    if (auto read = readLog(engine, lsn, MutableBytes(bytes).subspan(had)); !read) return read.error();
    lsn += step;
  }
  return bytes;
}

}  // namespace

Result<Timelines> timelinesOf(Engine& engine, uint64_t end) {
  Timelines known;
  const uint64_t first = engine.log().firstLsn();
  auto header = headerAt(engine, roundUp(first, kWalPageBytes));
  if (!header) return header.error();
  if (header.value()) {
    known.starts.push_back({header.value()->timeline, first});
  } else {
    auto identity = identityOf(engine);
    if (!identity) return identity.error();
    if (!identity.value()) return known;
    known.starts.push_back({identity.value()->timeline, first});
  }
  EpochHistory epochs;
  auto copied = engine.pump().call([&]() -> Result<uint64_t> {
    epochs = engine.store().record().history;
    return uint64_t{0};
  });
  if (!copied) return copied.error();
  for (const EpochStart& start : epochs) {
    if (start.firstLsn <= first) {
      known.decidedEpoch = start.epoch;
      continue;
    }
    if (start.firstLsn >= end) break;
    auto bytes = recordBytes(engine, start.firstLsn, end, kRecordHeaderBytes);
    if (!bytes) return bytes.error();
    const TimelineRecord said = looksLikeTimelineRecord(bytes.value());
    std::optional<uint32_t> next;
    if (said.bytes > 0) {
      auto whole = recordBytes(engine, start.firstLsn, end, said.bytes);
      if (!whole) return whole.error();
      if (whole.value().size() < said.bytes) {
        known.undecidedLsn = start.firstLsn;
        break;
      }
      next = timelineInRecord(whole.value());
    } else if (bytes.value().size() < kRecordHeaderBytes) {
      known.undecidedLsn = start.firstLsn;
      break;
    }
    if (!next) {
      // The switch may be behind another record in the same page: the next page says so.
      auto behind = headerAt(engine, roundUp(start.firstLsn, kWalPageBytes));
      if (!behind) return behind.error();
      if (behind.value()) next = behind.value()->timeline;
    }
    if (next && *next > known.starts.back().timeline) known.starts.push_back({*next, start.firstLsn});
    known.decidedEpoch = start.epoch;
  }
  return known;
}

Result<std::optional<std::string>> historyText(Engine& engine, const Timelines& known, uint32_t timeline) {
  auto stored = loadHistory(engine.settings().log.dir, timeline);
  if (!stored || stored.value()) return stored;
  for (size_t i = 1; i < known.starts.size(); ++i) {
    if (known.starts[i].timeline != timeline) continue;
    const uint32_t parent = known.starts[i - 1].timeline;
    std::string text;
    if (parent > 1) {
      auto before = historyText(engine, known, parent);
      if (!before || !before.value()) return before;
      text = *before.value() + "\n";
    }
    text += std::to_string(parent) + "\t" + formatLsn(known.starts[i].lsn) + "\tno recovery target specified\n";
    return std::optional(std::move(text));
  }
  return std::optional<std::string>{};
}

}  // namespace walship::postgres

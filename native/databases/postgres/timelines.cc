#include "databases/postgres/timelines.h"

#include <charconv>
#include <thread>

#include "base/clock.h"
#include "log/files.h"

namespace walship::postgres {

namespace {

constexpr size_t kHistoryBytesMax = 1u << 20;
constexpr uint64_t kSegmentStep = 1u << 20;  // the smallest segment there can be
constexpr uint64_t kArenaPatienceNs = 10'000'000'000;

Error badHistory(size_t line) {
  return makeError("WALSHIP_ERR_POSTGRES_HISTORY",
                   "line " + std::to_string(line) + " of a timeline's history file cannot be understood");
}

}  // namespace

Result<std::vector<TimelineEnd>> parseHistory(std::string_view text) {
  std::vector<TimelineEnd> ends;
  size_t number = 0;
  while (!text.empty()) {
    ++number;
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    while (!line.empty() && (line[0] == ' ' || line[0] == '\t')) line.remove_prefix(1);
    if (line.empty() || line[0] == '#') continue;
    TimelineEnd end;
    const auto parsed = std::from_chars(line.data(), line.data() + line.size(), end.timeline);
    if (parsed.ec != std::errc{}) return badHistory(number);
    line.remove_prefix(static_cast<size_t>(parsed.ptr - line.data()));
    const size_t begin = line.find_first_not_of(" \t");
    if (begin == 0 || begin == std::string_view::npos) return badHistory(number);
    line.remove_prefix(begin);
    const auto lsn = parseLsn(line.substr(0, line.find_first_of(" \t\r")));
    if (!lsn || end.timeline == 0) return badHistory(number);
    end.switchLsn = *lsn;
    if (!ends.empty() && (end.timeline <= ends.back().timeline || end.switchLsn < ends.back().switchLsn)) {
      return badHistory(number);
    }
    ends.push_back(end);
  }
  return ends;
}

std::string historyFileName(uint32_t timeline) {
  char name[32];
  std::snprintf(name, sizeof name, "%08X.history", timeline);
  return name;
}

Result<std::optional<std::string>> loadHistory(const std::string& dir, uint32_t timeline) {
  const std::string path = dir + "/" + historyFileName(timeline);
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    if (errno == ENOENT) return std::optional<std::string>{};
    return ioError("cannot open", errno, path);
  }
  auto bytes = sizeOf(path);
  if (!bytes) return bytes.error();
  if (bytes.value() > kHistoryBytesMax) return badHistory(0);
  std::string text(bytes.value(), '\0');
  if (auto read = readAt(file.get(), std::as_writable_bytes(std::span(text)), 0, path); !read) return read.error();
  return std::optional(std::move(text));
}

Result<void> storeHistory(const std::string& dir, uint32_t timeline, std::string_view text) {
  const std::string path = dir + "/" + historyFileName(timeline);
  const std::string beside = path + ".new";
  {
    auto file = openFile(beside, O_WRONLY | O_CREAT | O_TRUNC);
    if (!file) return file.error();
    if (auto written = writeAt(file.value().get(), std::as_bytes(std::span(text)), 0, beside); !written) return written;
    if (auto synced = syncFile(file.value().get(), beside); !synced) return synced;
  }
  if (auto renamed = renameFile(beside, path); !renamed) return renamed;
  return syncDirectory(dir);
}

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
    auto header = parseWalPageHeader(page, lsn);
    if (!header) return header.error();
    if (auto identity = parseSegmentStart(page, lsn); identity) return std::optional(identity.value());
  }
  return std::optional<WalIdentity>{};
}

Result<std::optional<uint32_t>> timelineBefore(Engine& engine, uint64_t lsn) {
  if (lsn == 0) return std::optional<uint32_t>{};
  const uint64_t page = (lsn - 1) / kWalPageBytes * kWalPageBytes;
  std::byte bytes[kWalPageHeaderBytes];
  if (page < engine.log().firstLsn() || page + sizeof bytes > engine.store().receivedLsn()) {
    return std::optional<uint32_t>{};
  }
  if (auto read = readLog(engine, page, bytes); !read) return read.error();
  auto header = parseWalPageHeader(bytes, page);
  if (!header) return header.error();
  return std::optional(header.value().timeline);
}

}  // namespace walship::postgres

#include "databases/postgres/history.h"

#include <charconv>
#include <mutex>

#include "databases/postgres/wire.h"
#include "log/files.h"

namespace walship::postgres {

namespace {

constexpr size_t kHistoryBytesMax = 1u << 20;

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
  static std::mutex oneAtATime;  // they would share the file beside it
  const std::lock_guard lock(oneAtATime);
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

}  // namespace walship::postgres

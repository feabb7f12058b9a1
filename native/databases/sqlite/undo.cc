#include "databases/sqlite/undo.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/checksum.h"
#include "log/files.h"
#include "log/offline.h"

namespace walship {

namespace {

namespace fs = std::filesystem;

constexpr uint64_t kWindowBytes = 4u << 20;  // of the log, searched first; then four times as much, and so on

// The pages of the transactions that are complete in the parser's bytes and end behind `fromLsn`.
class LostTransactions {
 public:
  LostTransactions(LostPages& into, uint64_t fromLsn) : into_(into), fromLsn_(fromLsn) {}

  void take(RecordParser& parser) {
    while (const auto record = parser.next()) {
      const PageRecordHeader& header = record->view.header();
      if (header.state()) last_ = header.place;
      if (header.copy()) continue;
      if (header.first()) pages_.clear();
      for (uint32_t i = 0; i < header.pageCount; ++i) pages_.push_back(record->view.page(i));
      if (!header.last()) continue;
      if (record->endLsn <= fromLsn_) continue;
      into_.pages.insert(pages_.begin(), pages_.end());
      into_.databasePagesMin = std::min(into_.databasePagesMin, header.databasePages);
    }
  }
  const std::optional<WalPlace>& last() const { return last_; }

 private:
  LostPages& into_;
  const uint64_t fromLsn_;
  std::vector<uint32_t> pages_;
  std::optional<WalPlace> last_;
};

// The log up to where the file begins, then the file: its first record may have begun before it.
Result<std::optional<WalPlace>> lookAtFile(Engine& engine, const std::string& path, LostPages& lost) {
  auto summary = verifyLog(path, [](uint64_t, uint64_t) { return true; });
  if (!summary) return summary.error();
  const uint64_t fileLsn = summary.value().firstLsn;
  // diverged-<epoch>-<LSN of the cut, 16 hex>[-n].wal
  const std::string name = fs::path(path).filename().string();
  const size_t dash = name.find('-', name.find('-') + 1);
  const uint64_t cutLsn = std::strtoull(name.substr(dash + 1, 16).c_str(), nullptr, 16);

  auto begin = transactionBefore(engine, std::min(fileLsn, engine.store().flushedLsn()));
  if (!begin) return begin.error();
  if (!begin.value()) {
    if (begin = firstRecordStart(engine); !begin) return begin.error();
  }
  uint64_t at = begin.value().value_or(fileLsn);
  RecordParser parser(at);
  LostTransactions transactions(lost, cutLsn);
  while (at < fileLsn) {
    auto chunk = engine.read(at, fileLsn, true);
    if (!chunk) return chunk.error();
    if (!chunk.value()) break;
    parser.feed(chunk.value()->bytes);
    at += chunk.value()->bytes.size();
    transactions.take(parser);
  }
  if (at < fileLsn) {
    return makeError("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED",
                     "the log ends before the transactions that were cut off into " + path);
  }
  auto exported = exportLog(path, fileLsn, summary.value().tail.lsn, [&](Bytes payload) -> Result<void> {
    parser.feed(payload);
    transactions.take(parser);
    return {};
  });
  if (!exported) return exported.error();
  lost.fromLsn = std::min(lost.fromLsn, cutLsn);
  return transactions.last();
}

// Where the last record of the log ends in the WAL.
Result<std::optional<WalPlace>> lastPlace(Engine& engine) {
  const uint64_t end = engine.store().flushedLsn();
  auto begin = transactionBefore(engine, end);
  if (!begin) return begin.error();
  std::optional<WalPlace> place;
  if (!begin.value()) return place;
  RecordReader reader(engine, *begin.value());
  while (true) {
    auto record = reader.next(end);
    if (!record) return record.error();
    if (!record.value()) return place;
    if (record.value()->view.header().state()) place = record.value()->view.header().place;
  }
}

Result<void> lookAtWal(Engine& engine, const std::optional<WalPlace>& captured, WalIndex& index, LostPages& lost) {
  auto header = index.readHeader();
  if (!header) return header.error();
  const uint32_t last = header.value().frames;
  uint32_t first = 1;
  if (captured && captured->salts == header.value().salts) first = captured->frame + 1;
  if (first > last) return {};
  for (uint32_t frame = first; frame <= last; ++frame) {
    auto page = index.pageOfFrame(frame);
    if (!page) return page.error();
    lost.pages.insert(page.value());
  }
  lost.databasePagesMin = std::min(lost.databasePagesMin, header.value().dbPages);
  lost.walCopy = index.databasePath() + "-lost-" + std::to_string(engine.store().flushedLsn()) + "-wal";
  std::error_code problem;
  fs::copy_file(index.walPath(), lost.walCopy, fs::copy_options::overwrite_existing, problem);
  if (problem) return ioError("cannot keep a copy of the WAL aside", problem.value(), lost.walCopy);
  return {};
}

}  // namespace

Result<void> findLostPages(Engine& engine, const SidecarState& state, WalIndex& index, LostPages& lost) {
  std::optional<WalPlace> captured;
  std::error_code problem;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(engine.settings().log.dir, problem)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("diverged-") && name.ends_with(".wal")) files.push_back(entry.path());
  }
  if (problem) return ioError("cannot list the log directory", problem.value(), engine.settings().log.dir);
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) lost.files.push_back(keyOf(file.filename().string()));
  for (const fs::path& file : files) {
    const uint64_t key = keyOf(file.filename().string());
    if (std::find(state.undone.begin(), state.undone.end(), key) != state.undone.end()) continue;
    auto last = lookAtFile(engine, file.string(), lost);
    if (!last) return last.error();
    if (last.value()) captured = last.value();
  }
  if (state.role == SidecarRole::primary) {
    if (!captured) {
      auto place = lastPlace(engine);
      if (!place) return place.error();
      captured = place.value();
    }
    if (auto looked = lookAtWal(engine, captured, index, lost); !looked) return looked.error();
  }
  return {};
}

Result<void> restorePages(Engine& engine, std::set<uint32_t> pages, uint64_t endLsn, const PageSink& sink) {
  uint64_t searchedFrom = endLsn;  // what begins at or behind it has been searched
  for (uint64_t window = kWindowBytes; !pages.empty(); window *= 4) {
    const uint64_t firstLsn = engine.log().firstLsn();
    auto begin = transactionBefore(engine, searchedFrom > firstLsn + window ? searchedFrom - window : firstLsn);
    if (!begin) return begin.error();
    const bool whole = !begin.value();
    if (whole) {
      if (begin = firstRecordStart(engine); !begin) return begin.error();
    }
    const uint64_t from = begin.value().value_or(endLsn);
    RecordReader reader(engine, from);
    std::map<uint32_t, std::vector<std::byte>> latest;
    std::map<uint32_t, std::vector<std::byte>> open;  // of the transaction under way
    while (true) {
      auto record = reader.next(endLsn);
      if (!record) return record.error();
      if (!record.value()) break;
      const PageRecordHeader& header = record.value()->view.header();
      if (header.first() || header.copy()) {
        if (record.value()->startLsn >= searchedFrom) break;
        open.clear();
      }
      for (uint32_t i = 0; i < header.pageCount; ++i) {
        const uint32_t page = record.value()->view.page(i);
        if (!pages.contains(page)) continue;
        const Bytes image = record.value()->view.image(i);
        open[page].assign(image.begin(), image.end());
      }
      if (!header.state()) continue;
      for (auto& [page, image] : open) latest[page] = std::move(image);
      open.clear();
    }
    for (const auto& [page, image] : latest) {
      if (auto given = sink(page, image); !given) return given;
      pages.erase(page);
    }
    searchedFrom = from;
    if (!pages.empty() && whole) {
      return makeError("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED",
                       std::to_string(pages.size()) + " pages (page " + std::to_string(*pages.begin()) +
                           " among them) must be taken back to LSN " + std::to_string(endLsn) +
                           ", and the log, which begins at LSN " + std::to_string(firstLsn) +
                           ", holds no older image of them; this node needs a snapshot of the database");
    }
  }
  return {};
}

}  // namespace walship

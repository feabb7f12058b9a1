#include "databases/sqlite/check.h"

#include <algorithm>
#include <unordered_map>

#include "base/checksum.h"
#include "log/files.h"

namespace walship {

namespace {

// The sums of a database's pages; [0] is page 1.
struct Pages {
  uint32_t pageBytes = 0;
  uint32_t walFrames = 0;
  uint64_t uncaptured = 0;
  std::vector<std::optional<uint64_t>> sums;  // none: only a later image is left than the log can have
};

// Frames of whole transactions: page to the offset of its last image. As SQLite recovers a WAL.
struct WalImages {
  uint32_t frames = 0;
  uint32_t databasePages = 0;  // 0: no transaction
  std::unordered_map<uint32_t, uint64_t> images;
  uint64_t uncaptured = 0;                       // transactions behind the log's end
  std::unordered_map<uint32_t, uint64_t> later;  // and their pages, which a checkpoint may have copied already
};

// `ends`: the log's last state, as SqliteLogSurvey::lastPlaces. What lies behind it is not in the log.
Result<WalImages> readWal(const Fd& wal, const std::string& file, uint64_t bytes, const std::vector<WalPlace>& ends,
                          uint32_t& pageBytes) {
  WalImages found;
  std::array<std::byte, kWalHeaderBytes> start;
  WalFileHeader header;
  if (bytes < start.size()) return found;
  if (auto read = readAt(wal.get(), start, 0, file); !read) return read.error();
  if (!decodeWalFileHeader(start, header)) return found;
  pageBytes = header.pageBytes;
  std::vector<std::byte> frame(kWalFrameHeaderBytes + pageBytes);
  std::unordered_map<uint32_t, uint64_t> open;
  WalChecksum sum = header.sum;
  const auto here = std::find_if(ends.rbegin(), ends.rend(), [&](const WalPlace& each) { return each.salts == header.salts; });
  const WalPlace end = here == ends.rend() ? ends.back() : *here;
  bool captured = end != WalPlace{header.salts, 0, sum};
  for (uint32_t at = 1; walFrameOffset(at + 1, pageBytes) <= bytes; ++at) {
    const uint64_t offset = walFrameOffset(at, pageBytes);
    if (auto read = readAt(wal.get(), frame, offset, file); !read) return read.error();
    if (!checkWalFrame(frame, header.salts, header.bigEndianSums, sum)) break;
    const WalFrameHeader place = decodeWalFrameHeader(frame);
    open[place.page] = offset + kWalFrameHeaderBytes;
    if (place.dbPages == 0) continue;
    auto& images = captured ? found.images : found.later;
    for (const auto& [page, image] : open) images[page] = image;
    open.clear();
    found.frames = at;
    if (captured) {
      found.databasePages = place.dbPages;
    } else {
      ++found.uncaptured;
    }
    if (end == WalPlace{header.salts, at, sum}) captured = false;
  }
  return found;
}

Result<Pages> readDatabase(const std::string& file, const std::vector<WalPlace>& ends) {
  auto size = sizeOf(file);
  if (!size) return size.error();
  auto opened = openFile(file, O_RDONLY);
  if (!opened) return opened.error();
  Pages pages;
  constexpr size_t kSizeAt = 16;
  if (size.value() >= kSqlitePageBytesMin) {
    std::array<std::byte, 100> header;
    if (auto read = readAt(opened.value().get(), header, 0, file); !read) return read.error();
    const uint32_t stored = loadBig32(header, kSizeAt) >> 16;
    pages.pageBytes = stored == 1 ? kSqlitePageBytesMax : stored;
  }
  const std::string walFile = file + "-wal";
  Fd wal;
  WalImages images;
  if (::access(walFile.c_str(), F_OK) == 0) {
    auto walOpened = openFile(walFile, O_RDONLY);
    if (!walOpened) return walOpened.error();
    wal = walOpened.take();
    auto walSize = sizeOf(walFile);
    if (!walSize) return walSize.error();
    uint32_t walPageBytes = pages.pageBytes;
    auto found = readWal(wal, walFile, walSize.value(), ends, walPageBytes);
    if (!found) return found.error();
    images = found.take();
    if (images.databasePages != 0) pages.pageBytes = walPageBytes;
  }
  if (!isSqlitePageBytes(pages.pageBytes)) {
    return fileError("WALSHIP_ERR_SQLITE", file + " is no SQLite database", file, kSizeAt);
  }
  pages.walFrames = images.frames;
  pages.uncaptured = images.uncaptured;
  const uint64_t inFile = size.value() / pages.pageBytes;
  const uint64_t count = images.databasePages != 0 ? images.databasePages : inFile;
  std::vector<std::byte> image(pages.pageBytes);
  for (uint64_t page = 1; page <= count; ++page) {
    const auto framed = images.images.find(static_cast<uint32_t>(page));
    if (framed != images.images.end()) {
      if (auto read = readAt(wal.get(), image, framed->second, walFile); !read) return read.error();
    } else if (images.later.contains(static_cast<uint32_t>(page))) {
      pages.sums.emplace_back();
      continue;
    } else if (page <= inFile) {
      auto read = readAt(opened.value().get(), image, (page - 1) * pages.pageBytes, file);
      if (!read) return read.error();
    } else {
      std::fill(image.begin(), image.end(), std::byte{0});  // the lock-byte page may lie behind the file's end
    }
    pages.sums.emplace_back(checksum(image));
  }
  return pages;
}

// The database as the log has it, transaction by transaction, always compared with the one there is.
class Replay {
 public:
  explicit Replay(const Pages& database) : database_(database) {}

  // The pages of a whole transaction.
  void apply(const LoggedTransaction& whole, const std::vector<std::pair<uint32_t, uint64_t>>& images) {
    if (whole.snapshot && !whole.noChange) forgetFrom(0);
    pageBytes_ = whole.pageBytes;
    for (const auto& [page, sum] : images) {
      if (page == lockBytePage(pageBytes_)) continue;
      if (page > sums_.size()) sums_.resize(page);
      std::optional<uint64_t>& known = sums_[page - 1];
      if (comparable(page)) --compared_;
      if (wrong(page)) --different_;
      known = sum;
      if (comparable(page)) ++compared_;
      if (wrong(page)) ++different_;
    }
    forgetFrom(whole.databasePages);
    loggedPages_ = whole.databasePages;
  }
  // In pages; one too many or too few is one, too.
  uint64_t different() const {
    if (pageBytes_ != database_.pageBytes) return std::max<uint64_t>(1, compared_);
    return different_ + missing();
  }
  uint64_t compared() const { return compared_; }
  uint32_t loggedPages() const { return loggedPages_; }
  std::vector<uint32_t> list() const {
    std::vector<uint32_t> pages;
    for (uint32_t page = 1; page <= sums_.size() && pages.size() < kDifferentPagesMax; ++page) {
      if (wrong(page)) pages.push_back(page);
    }
    return pages;
  }

 private:
  // Pages that only one of the two has.
  uint64_t missing() const {
    const uint64_t there = database_.sums.size();
    return std::max<uint64_t>(there, loggedPages_) - std::min<uint64_t>(there, loggedPages_);
  }
  bool comparable(uint32_t page) const {
    return sums_[page - 1] && page <= database_.sums.size() && database_.sums[page - 1];
  }
  bool wrong(uint32_t page) const { return comparable(page) && *database_.sums[page - 1] != *sums_[page - 1]; }
  void forgetFrom(uint32_t pages) {
    for (uint32_t page = pages + 1; page <= sums_.size(); ++page) {
      if (comparable(page)) --compared_;
      if (wrong(page)) --different_;
    }
    if (pages < sums_.size()) sums_.resize(pages);
  }

  const Pages& database_;
  std::vector<std::optional<uint64_t>> sums_;
  uint32_t pageBytes_ = 0;
  uint32_t loggedPages_ = 0;
  uint64_t compared_ = 0;
  uint64_t different_ = 0;
};

// Calls `at` behind every transaction.
Result<void> replay(const std::string& logDir, uint64_t fromLsn, uint64_t toLsn, Replay& into,
                    const std::function<void(const LoggedTransaction&)>& at) {
  TransactionAssembler assembler;
  std::vector<std::pair<uint32_t, uint64_t>> images;
  return readRecords(logDir, fromLsn, toLsn, [&](const LogRecord& record) -> Result<void> {
    const PageRecordHeader& header = record.view.header();
    if (header.first() || header.copy()) images.clear();
    for (uint32_t i = 0; i < record.view.header().pageCount; ++i) {
      images.emplace_back(record.view.page(i), checksum(record.view.image(i)));
    }
    auto whole = assembler.take(record);
    // Each record of a copy is true by itself.
    if (header.copy()) {
      whole = LoggedTransaction{record.startLsn, record.endLsn, header.commitUs, header.pageBytes, header.databasePages,
                                true,            true,          header.place};
    }
    if (whole) {
      into.apply(*whole, images);
      at(*whole);
    }
    return {};
  });
}

}  // namespace

Result<DatabaseComparison> compareSqlite(const std::string& database, const std::string& logDir,
                                         const ReadProgress& progress) {
  uint64_t surveyBytes = 0;
  auto surveyed = surveySqliteLog(
      logDir, [](const LoggedTransaction&) { return true; },
      [&](uint64_t done, uint64_t total) {
        surveyBytes = total;
        progress(done, 2 * total);
      });
  if (!surveyed) return surveyed.error();
  const SqliteLogSurvey& survey = surveyed.value();
  if (survey.inUse) {
    return fileError("WALSHIP_ERR_LOG_LOCKED", "a process has the log open: stop the node first", logDir);
  }
  if (!survey.last) return makeError("WALSHIP_ERR_LOG_RANGE", logDir + " holds no whole transaction");
  auto sidecar = Sidecar::open(database);
  if (!sidecar) return sidecar.error();
  const uint64_t appliedLsn = sidecar.value()->state().appliedLsn;
  auto read = readDatabase(database, survey.lastPlaces);
  if (!read) return read.error();
  const Pages& pages = read.value();

  DatabaseComparison outcome;
  outcome.pageBytes = pages.pageBytes;
  outcome.databasePages = static_cast<uint32_t>(pages.sums.size());
  outcome.walFrames = pages.walFrames;
  outcome.uncaptured = pages.uncaptured;
  outcome.differentCount = UINT64_MAX;
  Replay first(pages);
  auto passed = replay(logDir, survey.startLsn, survey.last->endLsn, first, [&](const LoggedTransaction& whole) {
    progress(surveyBytes + whole.endLsn - survey.startLsn, 2 * surveyBytes);
    // What comes before the last one that is applied cannot be it.
    if (whole.endLsn > appliedLsn && first.different() > outcome.differentCount) return;
    outcome.closest = whole;
    outcome.differentCount = first.different();
    outcome.compared = first.compared();
    outcome.loggedPages = first.loggedPages();
  });
  if (!passed) return passed.error();
  if (outcome.differentCount == 0) return outcome;
  Replay second(pages);
  auto again = replay(logDir, survey.startLsn, outcome.closest.endLsn, second, [](const LoggedTransaction&) {});
  if (!again) return again.error();
  outcome.different = second.list();
  return outcome;
}

}  // namespace walship

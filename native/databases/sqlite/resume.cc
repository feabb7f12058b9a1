// How the capture begins: the log and the database are brought to the same state.
//
// Every record says which place of the WAL the database had reached with it. The newest such place that the WAL holds
// now tells where the log stands: at it, or, if the log goes on behind it, ahead of the database (a power loss takes
// what synchronous=NORMAL had not synced). A database that matches nothing is put into the log whole.
#include <algorithm>

#include "base/clock.h"
#include "databases/sqlite/capture.h"
#include "databases/sqlite/wal_writer.h"

namespace walship {

namespace {
constexpr uint32_t kLockMs = 10'000;
constexpr uint32_t kPinTries = 1000;
}  // namespace

Result<uint32_t> Capture::pragma(const char* name) {
  uint32_t value = 0;
  const int done = sqlite3_exec(
      connection_.get(), name,
      [](void* into, int, char** values, char**) {
        *static_cast<uint32_t*>(into) = static_cast<uint32_t>(std::strtoul(values[0], nullptr, 10));
        return 0;
      },
      &value, nullptr);
  if (done != SQLITE_OK) return index_->error("cannot read the database", done);
  return value;
}

Result<void> Capture::open() {
  for (auto [connection, index] : {std::pair{&connection_, &index_}, {&checkpointConnection_, &checkpointIndex_}}) {
    auto opened = openConnection(path_);
    if (!opened) return opened.error();
    *connection = opened.take();
    auto found = WalIndex::open(connection->get());
    if (!found) return found.error();
    index->emplace(found.take());
  }
  for (uint32_t tries = 0; !checkpointIndex_->pinned(); ++tries) {
    auto pinned = checkpointIndex_->pin();
    if (!pinned) return pinned.error();
    if (!pinned.value() && tries == kPinTries) {
      return fileError("WALSHIP_ERR_SQLITE", "readers use every slot of the wal-index; end some of them", path_);
    }
    if (!pinned.value()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  transcriber_.emplace(engine_, *index_, ending_);
  return {};
}

// A crash may have cut the log's last record short: record.h.
Result<void> Capture::fillPartialRecord() {
  const uint64_t end = engine_.pump().appender().endLsn();
  auto begin = transactionBefore(engine_, end);
  if (!begin) return begin.error();
  RecordReader reader(engine_, begin.value().value_or(engine_.log().firstLsn()));
  for (;;) {
    auto record = reader.next(end);
    if (!record) return record.error();
    if (!record.value()) break;
  }
  std::vector<std::byte> rest;
  for (uint64_t at = reader.lsn(); at < end && rest.size() < kPageRecordHeaderBytes;) {
    auto chunk = engine_.read(at, end, true);
    if (!chunk) return chunk.error();
    if (!chunk.value()) break;
    put(rest, chunk.value()->bytes);
    at += chunk.value()->bytes.size();
  }
  if (rest.empty()) return {};
  const uint64_t there = end - reader.lsn();
  uint64_t whole = kPageRecordHeaderBytes;
  if (rest.size() >= kPageRecordHeaderBytes) {
    auto header = parsePageRecordHeader(rest);
    if (!header) return header.error();
    whole = header.value().recordBytes;
  }
  WALSHIP_ASSERT(there < whole);
  auto filled = engine_.append(std::vector<std::byte>(whole - there));
  if (!filled) return filled.error();
  awaitFlushed(filled.value(), kLockMs);
  return {};
}

// Where the WAL stood at the last whole transaction of the log. none: there is no transaction.
Result<std::optional<Capture::Reached>> Capture::lastReached() {
  const uint64_t end = engine_.pump().appender().endLsn();
  auto begin = transactionBefore(engine_, end);
  if (!begin) return begin.error();
  if (!begin.value()) return std::optional<Reached>{};
  std::optional<Reached> reached;
  RecordReader reader(engine_, *begin.value());
  for (;;) {
    auto record = reader.next(end);
    if (!record) return record.error();
    if (!record.value()) return reached;
    const PageRecordHeader& header = record.value()->view.header();
    if (header.state()) reached = Reached{header.place, header.databasePages, record.value()->endLsn};
  }
}

// Whether the WAL, of which `header` is the last commit, has come by `place`.
Result<bool> Capture::holds(const WalPlace& place, const WalIndexHeader& header) {
  if (place.frame == 0 || header.salts != place.salts || place.frame > header.frames) return false;
  std::vector<std::byte> frame(header.pageBytes() + kWalFrameHeaderBytes);
  if (auto read = index_->readFrames(place.frame, 1, header.pageBytes(), frame); !read) return read.error();
  const WalFrameHeader found = decodeWalFrameHeader(frame);
  return found.salts == place.salts && found.sum == place.sum;
}

Result<std::optional<Capture::Anchor>> Capture::newestAnchor(const WalIndexHeader& header) {
  std::optional<Anchor> newest;
  const uint64_t end = engine_.pump().appender().endLsn();
  const uint64_t known = std::max(sidecar_->state().appliedLsn, engine_.log().firstLsn());
  auto begin = transactionBefore(engine_, std::min(known, end));
  if (!begin) return begin.error();
  RecordReader reader(engine_, begin.value().value_or(engine_.log().firstLsn()));
  for (;;) {
    auto record = reader.next(end);
    if (!record) return record.error();
    if (!record.value()) return newest;
    const PageRecordHeader& found = record.value()->view.header();
    if (!found.state()) continue;
    auto held = holds(found.place, header);
    if (!held) return held.error();
    if (held.value()) {
      newest = Anchor{{found.place, found.databasePages, record.value()->endLsn}, false};
    } else if (newest && !found.noChange()) {
      newest->changed = true;
    }
  }
}

// Whether the log holds more behind `lsn` than places, which starts that were killed have left; or does not reach there.
Result<bool> Capture::changesBehind(uint64_t lsn) {
  const uint64_t end = engine_.pump().appender().endLsn();
  if (lsn < engine_.log().firstLsn() || lsn > end) return true;
  auto begin = transactionBefore(engine_, lsn);
  if (!begin) return begin.error();
  RecordReader reader(engine_, begin.value().value_or(engine_.log().firstLsn()));
  for (;;) {
    auto record = reader.next(end);
    if (!record) return record.error();
    if (!record.value()) return false;
    if (record.value()->endLsn > lsn && !record.value()->view.header().noChange()) return true;
  }
}

// The log is ahead: its transactions behind `lsn` come into the database as one.
Result<void> Capture::applyLogFrom(uint64_t lsn) {
  const uint64_t end = engine_.pump().appender().endLsn();
  auto writer = WalWriter::open(*checkpointIndex_);
  if (!writer) return writer.error();
  RecordReader reader(engine_, lsn);
  std::vector<std::pair<uint32_t, std::vector<std::byte>>> pages;  // of the transaction that is not whole yet
  uint32_t databasePages = 0;
  for (;;) {
    auto record = reader.next(end);
    if (!record) return record.error();
    if (!record.value()) break;
    const PageRecord& view = record.value()->view;
    if (view.header().copy()) continue;
    if (!writer.value().begun()) {
      auto begun = writer.value().begin(view.header().pageBytes);
      if (!begun) return begun.error();
      if (!begun.value()) return index_->error("another connection is writing", SQLITE_BUSY);
    }
    if (view.header().first()) pages.clear();
    for (uint32_t i = 0; i < view.header().pageCount; ++i) {
      pages.emplace_back(view.page(i), std::vector<std::byte>(view.image(i).begin(), view.image(i).end()));
    }
    if (!view.header().last()) continue;
    for (const auto& [page, image] : pages) {
      if (auto appended = writer.value().append(page, image); !appended) return appended;
    }
    pages.clear();
    databasePages = view.header().databasePages;
  }
  if (databasePages != 0) return writer.value().commit(databasePages);
  if (writer.value().begun()) writer.value().abandon();
  return {};
}

// The database as it is goes into the log whole, as one transaction that replaces what the log held: nodes that have the
// database must take it, too. What waits for its commit rule waits for the end of it.
Result<void> Capture::snapshot() {
  WalIndexHeader header;
  if (auto begun = beginRead(header, kLockMs, false); !begun) return begun;
  Result<void> outcome;
  auto pages = pragma("PRAGMA page_count");
  auto pageBytes = pragma("PRAGMA page_size");
  if (!pages || !pageBytes) {
    outcome = pages ? pageBytes.error() : pages.error();
  } else {
    pageBytes_ = pageBytes.value();
    const uint64_t beginLsn = engine_.pump().appender().endLsn();
    snapshotPages_.store(pages.value());
    outcome = transcriber_->appendSnapshot(header, pageBytes.value(), pages.value(),
                                           [this](uint32_t done) { snapshotPagesDone_.store(done); });
    snapshotPages_.store(0);
    snapshotPagesDone_.store(0);
    if (outcome) {
      snapshots_.fetch_add(1);
      snapshotLsn_.store(beginLsn);
    }
  }
  endRead();
  if (outcome) snapshotDue_ = false;
  return outcome;
}

// So that the next start finds the WAL of now in the log.
Result<void> Capture::anchor() {
  WalIndexHeader header;
  auto locked = lockWrite(header, kLockMs);
  if (!locked) return locked.error();
  if (!locked.value()) return index_->error("another connection is writing", SQLITE_BUSY);
  auto pages = pragma("PRAGMA page_count");
  Result<void> outcome;
  const WalPlace now{header.salts, header.frames, header.frameSum};
  if (!pages) {
    outcome = pages.error();
  } else if (header.frames == 0) {
    header.dbPages = pages.value();
    auto begun = beginGeneration(header);
    if (!begun) outcome = begun.error();
  } else {
    outcome = captureTo(header);
    std::vector<std::byte> first(pageBytes_);
    if (outcome) outcome = index_->readPage(1, header, first);
    if (outcome) outcome = transcriber_->appendAnchor(now, pageBytes_, header.dbPages, first);
    if (outcome) transcriber_->start(now, header.dbPages, transcriber_->lsn());
  }
  checkpointIndex_->unlockWrite();
  return outcome;
}

Result<void> Capture::noteStart(bool asClosed) {
  return sidecar_->update([&](SidecarState& into) {
    into.role = SidecarRole::primary;
    into.closedCleanly = asClosed;
    return true;
  });
}

Result<void> Capture::resume() {
  // Before a connection of ours changes the files.
  const SidecarState state = sidecar_->state();
  const FilesStamp stamp = sidecar_->stampNow();
  if (auto opened = open(); !opened) return opened;
  if (auto filled = fillPartialRecord(); !filled) return filled;
  // A primary applies nothing from its log.
  if (auto removed = engine_.readers().remove(engine_.settings().nodeId); !removed) return removed;
  const uint64_t end = engine_.pump().appender().endLsn();
  auto last = lastReached();
  if (!last) return last.error();
  auto header = index_->readHeader();
  if (!header) return header.error();
  auto pages = pragma("PRAGMA page_count");
  if (!pages) return pages.error();
  auto pageBytes = pragma("PRAGMA page_size");
  if (!pageBytes) return pageBytes.error();
  pageBytes_ = pageBytes.value();
  bool current = false;   // the WAL is where the log ends, or beyond
  bool asClosed = false;  // or else nobody has written since all of it was in the log
  if (last.value()) {
    auto held = holds(last.value()->place, header.value());
    if (!held) return held.error();
    current = held.value();
  }
  // Of a start that was killed there may be a WAL without a commit.
  const bool noWal = state.stamp.walBytes == 0 && header.value().frames == 0;
  if (last.value() && !current && state.closedCleanly && state.stamp.sameDatabase(stamp) && (noWal || state.stamp == stamp)) {
    auto changes = changesBehind(state.appliedLsn);
    if (!changes) return changes.error();
    asClosed = !changes.value();
  }
  // What was closed in order counts as that until the log says where the WAL goes on: this start may be killed, too.
  if (auto noted = noteStart(asClosed); !noted) return noted;

  if (!last.value()) return snapshot();
  if (current) {
    transcriber_->start(last.value()->place, last.value()->databasePages, end);
    return captureTo(header.value());
  }
  if (asClosed) {
    const bool empty = header.value().frames == 0;
    const WalPlace now{header.value().salts, header.value().frames, header.value().frameSum};
    transcriber_->start(empty ? WalPlace{} : now, pages.value(), end);
    if (auto anchored = anchor(); !anchored) return anchored;
    return noteStart(false);
  }
  auto known = newestAnchor(header.value());
  if (!known) return known.error();
  if (known.value() && !known.value()->changed) {
    // A generation was planned and did not come.
    transcriber_->start(known.value()->reached.place, known.value()->reached.databasePages, end);
    return captureTo(header.value());
  }
  if (known.value() && known.value()->reached.place.frame == header.value().frames) {
    if (auto applied = applyLogFrom(known.value()->reached.lsn); !applied) return applied;
    auto after = index_->readHeader();
    if (!after) return after.error();
    transcriber_->start({after.value().salts, after.value().frames, after.value().frameSum}, after.value().dbPages, end);
    return anchor();
  }
  // A new file has its first page only.
  if (pages.value() <= 1 && last.value()->databasePages > 1) {
    return fileError("WALSHIP_ERR_SQLITE_DATABASE_LOST",
                     "the database is empty and its log is not; restore it from the log, or start as a standby", path_);
  }
  event("sqlite-snapshot",
        fileError("WALSHIP_ERR_SQLITE_WAL_CHANGED",
                  "the database was changed while walship did not have it; it goes into the log whole", path_),
        end);
  return snapshot();
}

}  // namespace walship

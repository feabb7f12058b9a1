#include "log/log.h"

#include <doctest/doctest.h>

#include "log/segment.h"
#include "test/log/support.h"

namespace walship::test {
namespace {

std::unique_ptr<Log> openLog(const LogSettings& settings, RecoveryReport* report) {
  auto log = Log::open(settings, report);
  INFO((log.ok() ? std::string() : log.error().message));
  REQUIRE(log.ok());
  return log.take();
}

// Frames of many sizes over five segments; gives back the boundaries.
std::vector<LogPosition> fill(Writer& writer) {
  std::vector<LogPosition> boundaries;
  for (uint64_t size : {1u, 7u, 8u, 100u, 65'000u, 200'000u, 1'000'000u, 3u, 900u, 64'000u, 5u}) {
    REQUIRE(writer.append(size).ok());
    REQUIRE(writer.commit().ok());
    boundaries.push_back(writer.tail());
  }
  return boundaries;
}

TEST_CASE("a log gives back what was written, and reopens cleanly") {
  const ScratchDirectory dir;
  LogPosition tail;
  RecoveryReport report;
  {
    auto log = openLog(smallSettings(dir.path(), 1), &report);
    CHECK(report.note.empty());
    CHECK(report.tail == LogPosition{});
    CHECK(log->pageOf(0).value() == 0);
    CHECK(log->positionAt(0).value() == LogPosition{});
    Writer writer(*log, report.tail);
    const auto boundaries = fill(writer);
    tail = writer.tail();
    CHECK(holdsOnlyWhatWasAppended(*log, tail));
    CHECK(log->segments().size() == 6);
    CHECK(log->bytesOnDisk() >= 6 * smallGeometry().segmentBytes());
    for (uint64_t lsn = 0; lsn < tail.lsn; lsn += 4'999) {
      auto page = log->pageOf(lsn);
      REQUIRE(page.ok());
      std::vector<std::byte> bytes(kPageBytesMin);
      auto end = log->readPage(page.value(), bytes);
      REQUIRE(end.ok());
      CHECK(loadAt<PageHeader>(bytes, 0).firstLsn <= lsn);
      CHECK(lsn < end.value().lsn);
      auto position = log->positionAt(lsn);
      REQUIRE(position.ok());
      CHECK(position.value().lsn <= lsn);
    }
    for (const LogPosition& boundary : boundaries) CHECK(log->positionAt(boundary.lsn).value() == boundary);
    CHECK(log->positionAt(tail.lsn + 1'000'000).value() == tail);
    CHECK(log->pageOf(tail.lsn).value() == tail.page);
    CHECK(log->pageOf(UINT64_MAX).value() == tail.page);
    std::vector<std::byte> bytes(kPageBytesMin);
    CHECK(log->readPage(tail.page + 1, bytes).error().is("WALSHIP_ERR_LOG_POSITION"));
    CHECK(log->readPage(UINT64_MAX, bytes).error().is("WALSHIP_ERR_LOG_POSITION"));
    REQUIRE(log->close(tail).ok());
    CHECK(log->sync().error().is("WALSHIP_ERR_LOG_CLOSED"));
  }
  auto log = openLog(smallSettings(dir.path()), &report);
  CHECK(report.tail == tail);
  CHECK(report.note.empty());
  CHECK(report.discardedBytes == 0);
  CHECK(holdsOnlyWhatWasAppended(*log, tail));
}

TEST_CASE("a log goes on where it ended, closed or not") {
  const ScratchDirectory dir;
  LogPosition tail{4242, 0, 0, 0, 0};
  auto settings = smallSettings(dir.path());
  settings.startLsn = 4242;
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    RecoveryReport report;
    auto log = openLog(settings, &report);
    REQUIRE(report.tail == tail);
    CHECK(log->firstLsn() == 4242);
    Writer writer(*log, tail);
    for (uint32_t count = random() % 4; count > 0; --count) {
      REQUIRE(writer.append(1 + random() % 40'000).ok());
      REQUIRE(writer.commit().ok());
    }
    tail = writer.tail();
    CHECK(holdsOnlyWhatWasAppended(*log, tail));
    if (random() % 2 == 0) REQUIRE(log->close(tail).ok());
  }
}

TEST_CASE("trimming removes whole segments below an LSN and keeps the rest") {
  const ScratchDirectory dir;
  RecoveryReport report;
  auto log = openLog(smallSettings(dir.path(), 1), &report);
  CHECK(log->trimBelow(0).value() == 0);
  CHECK(log->trimBelow(100).value() == 0);
  Writer writer(*log, report.tail);
  fill(writer);
  const LogPosition tail = writer.tail();
  const auto segments = log->segments();
  CHECK(log->trimBelow(segments[1].firstLsn - 1).value() == 0);
  CHECK(log->segments().size() == segments.size());
  CHECK(log->trimBelow(segments[2].firstLsn + 5).value() == segments[2].firstLsn);
  CHECK(log->firstLsn() == segments[2].firstLsn);
  CHECK(log->firstPage() == segments[2].firstPage);
  CHECK(log->trimBelow(5).value() == segments[2].firstLsn);
  CHECK(holdsOnlyWhatWasAppended(*log, tail));
  std::vector<std::byte> bytes(kPageBytesMin);
  CHECK(log->readPage(3, bytes).error().is("WALSHIP_ERR_LOG_TRIMMED"));
  CHECK(log->pageOf(segments[2].firstLsn - 1).error().is("WALSHIP_ERR_LOG_TRIMMED"));
  CHECK(log->positionAt(0).error().is("WALSHIP_ERR_LOG_TRIMMED"));
  const LogPosition first = log->positionAt(log->firstLsn()).value();
  CHECK(first.offset == 0);
  CHECK(first.page == log->firstPage());
  CHECK_FALSE(sizeOf(segments[1].file).ok());
  // The segment with the tail stays, whatever is asked for.
  CHECK(log->trimBelow(UINT64_MAX).value() == segments.back().firstLsn);
  CHECK(log->segments().size() == 1);
  REQUIRE(writer.append(500'000).ok());
  REQUIRE(writer.commit().ok());
  CHECK(holdsOnlyWhatWasAppended(*log, writer.tail()));
  log.reset();
  log = openLog(smallSettings(dir.path()), &report);
  CHECK(report.tail == writer.tail());
  CHECK(log->firstLsn() == segments.back().firstLsn);
}

TEST_CASE("a log that nobody syncs is trimmed all the same, and what stays is made durable first") {
  const ScratchDirectory dir;
  RecoveryReport report;
  auto log = openLog(smallSettings(dir.path(), 1), &report);
  Writer writer(*log, report.tail);
  REQUIRE(writer.append(1'500'000).ok());
  REQUIRE(writer.flush().ok());
  const uint64_t first = log->segments()[4].firstLsn;
  CHECK(log->trimBelow(first + 1).value() == first);
  log.reset();
  log = openLog(smallSettings(dir.path()), &report);
  CHECK(report.tail == writer.tail());
  CHECK(log->firstLsn() == first);
}

TEST_CASE("truncation cuts at any boundary, keeps what it cut, and the old tail never comes back") {
  const ScratchDirectory whole;
  std::vector<LogPosition> boundaries;
  {
    RecoveryReport report;
    auto log = openLog(smallSettings(whole.path()), &report);
    Writer writer(*log, report.tail);
    boundaries = fill(writer);
    boundaries.insert(boundaries.begin(), LogPosition{});
  }
  for (const LogPosition& to : boundaries) {
    CAPTURE(to.lsn);
    const ScratchDirectory dir;
    RecoveryReport report;
    auto log = openLog(smallSettings(dir.path(), 1), &report);
    {
      Writer writer(*log, report.tail);
      fill(writer);
    }
    const LogPosition oldTail = boundaries.back();
    LogPosition between = to;
    ++between.lsn;
    CHECK(log->truncate(between, oldTail).error().is("WALSHIP_ERR_LOG_POSITION"));
    between = to;
    between.headerChecksum ^= 1;
    CHECK(log->truncate(between, oldTail).error().is("WALSHIP_ERR_LOG_POSITION"));
    REQUIRE(log->truncate(to, oldTail).ok());
    CHECK(log->positionAt(UINT64_MAX).value() == to);
    CHECK(holdsOnlyWhatWasAppended(*log, to));
    // The same frames again, up to the page of the cut: they must not lead on to what stood behind them.
    for (int crash = 0; crash < 2; ++crash) {
      log.reset();
      log = openLog(smallSettings(dir.path()), &report);
      REQUIRE(report.tail.lsn == to.lsn);
      CHECK(report.discardedBytes == 0);
    }
    Writer writer(*log, report.tail, 2, 99);
    REQUIRE(writer.append(1).ok());
    REQUIRE(writer.commit().ok());
    log.reset();
    log = openLog(smallSettings(dir.path()), &report);
    CHECK(report.tail == writer.tail());
    CHECK(listDirectory(dir.path()).value().diverged.size() == (to == oldTail ? 0 : 1));
  }
}

TEST_CASE("after a truncation the same frames written again do not lead on to the old ones") {
  const ScratchDirectory dir;
  RecoveryReport report;
  auto log = openLog(smallSettings(dir.path(), 1), &report);
  std::vector<LogPosition> boundaries;
  {
    Writer writer(*log, report.tail);
    for (int count = 0; count < 30; ++count) {
      REQUIRE(writer.append(30'000).ok());
      REQUIRE(writer.commit().ok());
      boundaries.push_back(writer.tail());
    }
  }
  REQUIRE(log->truncate(boundaries[4], boundaries.back()).ok());
  Writer writer(*log, boundaries[4]);
  for (size_t count = 5; count < 30; ++count) {
    REQUIRE(writer.append(30'000).ok());
    REQUIRE(writer.commit().ok());
    REQUIRE(writer.tail() == boundaries[count]);
    log.reset();
    log = openLog(smallSettings(dir.path(), 1), &report);
    REQUIRE(report.tail == boundaries[count]);
    writer = Writer(*log, report.tail);
  }
}

TEST_CASE("an empty log takes over the place of another node's first page") {
  const ScratchDirectory upstreamDir;
  const ScratchDirectory dir;
  RecoveryReport report;
  auto upstream = openLog(smallSettings(upstreamDir.path()), &report);
  Writer source(*upstream, report.tail);
  fill(source);
  REQUIRE(upstream->trimBelow(upstream->segments()[3].firstLsn).ok());
  const LogPosition start = upstream->positionAt(upstream->firstLsn()).value();
  REQUIRE(start.page == 12);

  auto log = openLog(smallSettings(dir.path()), &report);
  LogPosition crooked = start;
  crooked.page = 13;
  CHECK(log->startAt(crooked).error().is("WALSHIP_ERR_LOG_POSITION"));
  REQUIRE(log->startAt(start).ok());
  CHECK(log->firstLsn() == start.lsn);
  CHECK(log->pageOf(start.lsn).value() == 12);
  CHECK(log->positionAt(start.lsn).value() == start);
  CHECK(log->pageOf(start.lsn - 1).error().is("WALSHIP_ERR_LOG_TRIMMED"));
  log.reset();
  log = openLog(smallSettings(dir.path()), &report);
  CHECK(report.tail == start);

  std::vector<std::byte> bytes(kPageBytesMin);
  LogPosition tail = start;
  for (uint64_t page = start.page; page <= source.tail().page; ++page) {
    auto end = upstream->readPage(page, bytes);
    REQUIRE(end.ok());
    REQUIRE(log->write(page, 0, Bytes(bytes).first(end.value().offset)).ok());
    tail = end.value();
  }
  REQUIRE(log->sync().ok());
  CHECK(log->startAt(start).error().is("WALSHIP_ERR_LOG_POSITION"));
  REQUIRE(log->close(tail).ok());
  REQUIRE(upstream->close(source.tail()).ok());
  CHECK(segmentContents(*log) == segmentContents(*upstream));
  log = openLog(smallSettings(dir.path()), &report);
  CHECK(report.tail == source.tail());
  CHECK(log->firstPage() == 12);
}

TEST_CASE("a whole log can be cut away, and begun elsewhere") {
  const ScratchDirectory dir;
  RecoveryReport report;
  auto log = openLog(smallSettings(dir.path(), 1), &report);
  Writer writer(*log, report.tail);
  fill(writer);
  REQUIRE(log->trimBelow(log->segments()[2].firstLsn).ok());
  const LogPosition first = log->positionAt(log->firstLsn()).value();
  REQUIRE(log->truncate(first, writer.tail()).ok());
  CHECK(log->segments().empty());
  CHECK(log->positionAt(first.lsn).value() == first);
  REQUIRE(log->startAt({9'000'000, 5, 0, 40, 0}).ok());
  Writer again(*log, {9'000'000, 5, 0, 40, 0}, 3);
  fill(again);
  CHECK(holdsOnlyWhatWasAppended(*log, again.tail()));
  log.reset();
  log = openLog(smallSettings(dir.path()), &report);
  CHECK(report.tail == again.tail());
  CHECK(log->firstLsn() == 9'000'000);
}

// Writes the same frames to a log, in its own way; trims so that its last segments are recycled files or new
// ones.
std::map<std::string, std::vector<std::byte>> writeInOwnWay(uint32_t seed, bool recycle) {
  const ScratchDirectory dir;
  RecoveryReport report;
  auto log = openLog(smallSettings(dir.path(), 2), &report);
  Writer writer(*log, report.tail);
  std::mt19937 sizes(7);
  std::mt19937 way(seed);
  for (int count = 0; count < 150; ++count) {
    const uint64_t size = 1 + sizes() % 40'000;
    REQUIRE(writer.append(size).ok());
    if (way() % 3 == 0) REQUIRE(writer.flush().ok());
    if (way() % 5 == 0) REQUIRE(writer.commit().ok());
    if (recycle && way() % 4 == 0) {
      REQUIRE(log->trimBelow(std::max<uint64_t>(writer.tail().lsn, 600000) - 600000).ok());
    }
    if (way() % 20 == 0) {
      REQUIRE(writer.commit().ok());
      const LogPosition tail = writer.tail();
      if (way() % 2 == 0) REQUIRE(log->close(tail).ok());
      log.reset();
      log = openLog(smallSettings(dir.path(), 2), &report);
      REQUIRE(report.tail == tail);
      writer = Writer(*log, tail);
    }
  }
  REQUIRE(writer.flush().ok());
  REQUIRE(log->trimBelow(writer.tail().lsn - 600'000).ok());
  REQUIRE(log->close(writer.tail()).ok());
  return segmentContents(*log);
}

TEST_CASE(
    "segment files are the same bytes whatever way the log was written, trimmed, recycled and reopened") {
  const auto first = writeInOwnWay(1, false);
  CHECK(first.size() >= 3);
  for (uint32_t seed = 2; seed < 12; ++seed) {
    const auto other = writeInOwnWay(seed, seed % 2 == 0);
    for (const auto& [name, bytes] : other) {
      if (first.contains(name)) CHECK(first.at(name) == bytes);
    }
    CHECK(first.contains(other.rbegin()->first));
  }
}

TEST_CASE("a page header without a frame leaves no trace after a close") {
  const ScratchDirectory dir;
  const ScratchDirectory plain;
  RecoveryReport report;
  std::map<std::string, std::vector<std::byte>> contents[2];
  for (const bool bare : {false, true}) {
    auto log = openLog(smallSettings(bare ? dir.path() : plain.path()), &report);
    Writer writer(*log, report.tail);
    REQUIRE(writer.append(4 * smallGeometry().payloadRoomMax()).ok());
    REQUIRE(writer.commit().ok());
    LogPosition tail = writer.tail();
    REQUIRE(tail.offset == kPageBytesMin);
    if (bare) {
      std::vector<std::byte> header(kPageHeaderBytes);
      sealPageHeader(header, log->geometry(), tail.page + 1, 1, tail.chain());
      REQUIRE(log->write(tail.page + 1, 0, header).ok());
      REQUIRE(log->sync().ok());
      REQUIRE(log->mark({tail.lsn, tail.headerChecksum, 1, tail.page + 1, kPageHeaderBytes}).ok());
      CHECK(log->positionAt(tail.lsn).value() == tail);
      log.reset();
      log = openLog(smallSettings(dir.path()), &report);
      CHECK(report.tail == tail);
      CHECK(report.discardedBytes == kPageHeaderBytes);
      REQUIRE(log->write(tail.page + 1, 0, header).ok());
      REQUIRE(log->sync().ok());
      tail = {tail.lsn, tail.headerChecksum, 1, tail.page + 1, kPageHeaderBytes};
    }
    REQUIRE(log->close(tail).ok());
    contents[bare] = segmentContents(*log);
  }
  CHECK(contents[0] == contents[1]);
}

TEST_CASE("closing at another place than the log's end is refused, and destroys nothing") {
  const ScratchDirectory dir;
  RecoveryReport report;
  auto log = openLog(smallSettings(dir.path()), &report);
  Writer writer(*log, report.tail);
  const auto boundaries = fill(writer);
  CHECK(log->close(boundaries[3]).error().is("WALSHIP_ERR_LOG_POSITION"));
  CHECK(log->zeroTail(boundaries[3]).error().is("WALSHIP_ERR_LOG_POSITION"));
  CHECK(holdsOnlyWhatWasAppended(*log, writer.tail()));
  REQUIRE(log->close(writer.tail()).ok());
}

}  // namespace
}  // namespace walship::test

#include "log/offline.h"

#include <doctest/doctest.h>

#include "log/segment.h"
#include "test/log/support.h"

namespace walship::test {
namespace {

std::unique_ptr<Log> openLog(const std::string& dir) {
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir, 1), &report);
  REQUIRE(log.ok());
  return log.take();
}

Result<std::vector<std::byte>> exported(const std::string& path, uint64_t from, uint64_t to) {
  std::vector<std::byte> bytes;
  auto done = exportLog(path, from, to, [&](Bytes payload) -> Result<void> {
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return {};
  });
  if (!done) return done.error();
  return bytes;
}

bool isRange(const Result<std::vector<std::byte>>& bytes, uint64_t from, uint64_t to) {
  if (!bytes || bytes.value().size() != to - from) return false;
  for (uint64_t at = from; at < to; ++at) {
    if (bytes.value()[at - from] != byteAt(at)) return false;
  }
  return true;
}

TEST_CASE("a summary says what an open would find, in use or not") {
  const ScratchDirectory dir;
  auto log = openLog(dir.path());
  Writer writer(*log, {});
  REQUIRE(writer.append(900'000).ok());
  REQUIRE(writer.commit().ok());
  REQUIRE(log->trimBelow(300'000).ok());
  REQUIRE(NodeRecordFile::store(dir.path(), {{{1, 0}}, 3, 700'000}).ok());
  ReaderRegistry readers(dir.path());
  REQUIRE(readers.set("standby", 400'000).ok());
  writeFile(dir / "stray", {});
  for (const bool closed : {false, true}) {
    if (closed) REQUIRE(log->close(writer.tail()).ok());
    auto inspected = inspectLog(dir.path());
    REQUIRE(inspected.ok());
    const LogSummary& summary = inspected.value();
    CHECK(summary.geometry.pageBytes == kPageBytesMin);
    CHECK(summary.geometry.segmentPages == 4);
    CHECK(summary.geometry.clusterTag == smallGeometry().clusterTag);
    CHECK(summary.tail == writer.tail());
    CHECK(summary.firstLsn == log->firstLsn());
    CHECK(summary.firstPage == log->firstPage());
    CHECK(summary.segments.size() == log->segments().size());
    CHECK(summary.inUse == !closed);
    CHECK(summary.closedCleanly == closed);
    CHECK(summary.mark == writer.tail());
    CHECK(summary.record.promisedEpoch == 3);
    REQUIRE(summary.readers.size() == 1);
    CHECK(summary.readers[0].name == "standby");
    CHECK(summary.strays.size() == 1);
    CHECK(summary.bytesOnDisk >= summary.segments.size() * smallGeometry().segmentBytes());
    CHECK(summary.problems.empty());
  }
}

TEST_CASE("what is no log is said to be none") {
  const ScratchDirectory dir;
  CHECK(inspectLog(dir.path()).error().is("WALSHIP_ERR_LOG_NOT_FOUND"));
  CHECK(verifyLog(dir.path(), {}).error().is("WALSHIP_ERR_LOG_NOT_FOUND"));
  CHECK(inspectLog(dir / "nothing").error().is("WALSHIP_ERR_LOG_NOT_FOUND"));
  writeFile(dir / "file", std::vector<std::byte>(1000));
  CHECK(inspectLog(dir / "file").error().is("WALSHIP_ERR_LOG_CORRUPT"));
  CHECK(exportLog(dir / "file", 0, 1, {}).error().is("WALSHIP_ERR_LOG_CORRUPT"));
}

TEST_CASE("an empty log is a log without problems") {
  const ScratchDirectory dir;
  openLog(dir.path());
  auto inspected = inspectLog(dir.path());
  REQUIRE(inspected.ok());
  CHECK(inspected.value().segments.empty());
  CHECK(inspected.value().problems.empty());
  auto verified = verifyLog(dir.path(), {});
  REQUIRE(verified.ok());
  CHECK(verified.value().problems.empty());
  CHECK(verified.value().pages == 0);
}

TEST_CASE("verify counts everything, reports progress and can be stopped") {
  const ScratchDirectory dir;
  auto log = openLog(dir.path());
  Writer writer(*log, {});
  for (int count = 0; count < 100; ++count) REQUIRE(writer.append(7'777).ok());
  REQUIRE(writer.commit().ok());
  REQUIRE(log->close(writer.tail()).ok());
  uint64_t done = 0;
  uint64_t total = 0;
  auto verified = verifyLog(dir.path(), [&](uint64_t doneBytes, uint64_t totalBytes) {
    CHECK(doneBytes > done);
    done = doneBytes;
    total = totalBytes;
    return true;
  });
  REQUIRE(verified.ok());
  CHECK(verified.value().problems.empty());
  CHECK(verified.value().pages == writer.tail().page + 1);
  CHECK(verified.value().payloadBytes == 777'700);
  CHECK(verified.value().frames >= 100);
  CHECK(verified.value().tail == writer.tail());
  CHECK_FALSE(verified.value().stopped);
  CHECK(done == (writer.tail().page + 1) * kPageBytesMin);
  CHECK(total == log->segments().size() * smallGeometry().segmentBytes());
  int calls = 0;
  verified = verifyLog(dir.path(), [&](uint64_t, uint64_t) { return ++calls < 3; });
  CHECK(verified.value().stopped);
  CHECK(verified.value().pages == 3);
}

TEST_CASE("verify goes on behind damage and lists all of it") {
  const ScratchDirectory dir;
  auto log = openLog(dir.path());
  Writer writer(*log, {});
  REQUIRE(writer.append(2'000'000).ok());
  REQUIRE(writer.commit().ok());
  const auto segments = log->segments();
  REQUIRE(log->close(writer.tail()).ok());
  const std::vector<std::pair<size_t, uint64_t>> flips = {{0, 100},
                                                          {1, 3 * kPageBytesMin + 30'000},
                                                          {2, 10},
                                                          {2, kPageBytesMin + 5},
                                                          {5, 2 * kPageBytesMin + 64}};
  for (const auto& [segment, offset] : flips) flipBit(segments[segment].file, offset);
  auto verified = verifyLog(dir.path(), {});
  REQUIRE(verified.ok());
  REQUIRE(verified.value().problems.size() == flips.size());
  for (size_t index = 0; index < flips.size(); ++index) {
    const Error& problem = verified.value().problems[index];
    CHECK(problem.is("WALSHIP_ERR_LOG_CORRUPT"));
    CHECK(problem.file == segments[flips[index].first].file);
    CHECK(problem.offset <= static_cast<int64_t>(flips[index].second));
    CHECK(problem.offset / kPageBytesMin == static_cast<int64_t>(flips[index].second / kPageBytesMin));
  }
}

TEST_CASE("export gives exactly the payload bytes of a range") {
  const ScratchDirectory dir;
  auto settings = smallSettings(dir.path());
  settings.startLsn = 1000;
  RecoveryReport report;
  auto log = Log::open(settings, &report);
  REQUIRE(log.ok());
  Writer writer(*log.value(), report.tail);
  std::mt19937 random(4);
  while (writer.tail().lsn < 700'000) REQUIRE(writer.append(1 + random() % 9'000).ok());
  REQUIRE(writer.commit().ok());
  const uint64_t tail = writer.tail().lsn;
  CHECK(isRange(exported(dir.path(), 1000, tail), 1000, tail));
  CHECK(isRange(exported(dir.path(), tail - 1, tail), tail - 1, tail));
  CHECK(isRange(exported(dir.path(), tail, tail), tail, tail));
  for (int count = 0; count < 200; ++count) {
    const uint64_t from = 1000 + random() % (tail - 1000);
    const uint64_t to = from + random() % (tail - from + 1);
    CHECK(isRange(exported(dir.path(), from, to), from, to));
  }
  CHECK(exported(dir.path(), 999, 2000).error().is("WALSHIP_ERR_LOG_TRIMMED"));
  CHECK(exported(dir.path(), 2000, tail + 1).error().is("WALSHIP_ERR_LOG_RANGE"));
  CHECK(exported(dir.path(), tail + 1, tail + 1).error().is("WALSHIP_ERR_LOG_RANGE"));
  CHECK(exported(dir.path(), 2000, 1999).error().is("WALSHIP_ERR_LOG_RANGE"));
  auto stopped = exportLog(dir.path(), 1000, tail,
                           [](Bytes) -> Result<void> { return makeError("WALSHIP_ERR_TEST", "enough"); });
  CHECK(stopped.error().is("WALSHIP_ERR_TEST"));
  REQUIRE(log.value()->trimBelow(400'000).ok());
  const uint64_t first = log.value()->firstLsn();
  CHECK(exported(dir.path(), first - 1, tail).error().is("WALSHIP_ERR_LOG_TRIMMED"));
  CHECK(isRange(exported(dir.path(), first, tail), first, tail));
  // Damage in the range is an error, damage elsewhere is none.
  flipBit(log.value()->segments()[1].file, 70'000);
  CHECK(isRange(exported(dir.path(), first, first + 200'000), first, first + 200'000));
  CHECK(exported(dir.path(), first, tail).error().is("WALSHIP_ERR_LOG_CORRUPT"));
  CHECK(isRange(exported(dir.path(), tail - 1'000, tail), tail - 1'000, tail));
}

TEST_CASE("what a truncation cut off can be read from its diverged file") {
  const ScratchDirectory dir;
  auto log = openLog(dir.path());
  Writer writer(*log, {});
  for (int count = 0; count < 40; ++count) REQUIRE(writer.append(20'001).ok());
  REQUIRE(writer.commit().ok());
  const LogPosition tail = writer.tail();
  const LogPosition to = log->positionAt(300'000).value();
  REQUIRE(log->truncate(to, tail).ok());
  auto listing = listDirectory(dir.path());
  REQUIRE(listing.value().diverged.size() == 1);
  const std::string& file = listing.value().diverged[0];
  CHECK(file == dir / ("diverged-1-" + hex16(to.lsn) + ".wal"));
  CHECK(isRange(exported(file, to.lsn, tail.lsn), to.lsn, tail.lsn));
  CHECK(exported(file, to.lsn, tail.lsn + 1).error().is("WALSHIP_ERR_LOG_RANGE"));
  auto verified = verifyLog(file, {});
  REQUIRE(verified.ok());
  CHECK(verified.value().problems.empty());
  CHECK(verified.value().tail == tail);
  auto inspected = inspectLog(file);
  REQUIRE(inspected.ok());
  CHECK(inspected.value().tail == tail);
  CHECK(inspected.value().geometry.pageBytes == kPageBytesMin);
  CHECK(inspectLog(dir.path()).value().diverged == listing.value().diverged);
  // The same cut once more: the first file stays.
  writer = Writer(*log, to);
  REQUIRE(writer.append(5).ok());
  REQUIRE(writer.commit().ok());
  REQUIRE(log->truncate(to, writer.tail()).ok());
  CHECK(listDirectory(dir.path()).value().diverged.size() == 2);
  CHECK(isRange(exported(file, to.lsn, tail.lsn), to.lsn, tail.lsn));
  flipBit(file, 100);
  CHECK(verifyLog(file, {}).value().problems.size() == 1);
}

}  // namespace
}  // namespace walship::test

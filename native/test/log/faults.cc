// A log directory that something happened to: each case has its own clear error, or is put right with a note.
#include <doctest/doctest.h>

#include "log/mark.h"
#include "log/offline.h"
#include "log/segment.h"
#include "test/log/made.h"

namespace walship::test {
namespace {

TEST_CASE("a missing segment is an error that names it") {
  for (size_t missing = 0; missing < 5; ++missing) {
    for (const bool close : {true, false}) {
      const ScratchDirectory dir;
      const auto made = make(dir.path(), close);
      REQUIRE(removeFile(made.segments[missing].file).ok());
      const Error error = openError(smallSettings(dir.path()));
      CHECK(error.is("WALSHIP_ERR_LOG_SEGMENT_MISSING"));
      CHECK(error.file == made.segments[missing].file);
      auto verified = verifyLog(dir.path(), {});
      REQUIRE(verified.ok());
      CHECK_FALSE(verified.value().problems.empty());
    }
  }
}

TEST_CASE("all segments missing is an error, not an empty log") {
  const ScratchDirectory dir;
  const auto made = make(dir.path());
  for (const SegmentInfo& segment : made.segments) REQUIRE(removeFile(segment.file).ok());
  CHECK(openError(smallSettings(dir.path())).is("WALSHIP_ERR_LOG_SEGMENT_MISSING"));
}

TEST_CASE("a log of another cluster or another geometry is refused") {
  const ScratchDirectory dir;
  make(dir.path());
  auto settings = smallSettings(dir.path());
  settings.geometry.clusterTag ^= 1;
  CHECK(openError(settings).is("WALSHIP_ERR_LOG_FOREIGN"));
  settings = smallSettings(dir.path());
  settings.geometry.pageBytes *= 2;
  CHECK(openError(settings).is("WALSHIP_ERR_LOG_FOREIGN"));
  settings = smallSettings(dir.path());
  settings.geometry.segmentPages = 8;
  CHECK(openError(settings).is("WALSHIP_ERR_LOG_FOREIGN"));
  // Without the mark too, from the pages alone.
  REQUIRE(removeFile(dir / "mark").ok());
  settings = smallSettings(dir.path());
  settings.geometry.clusterTag ^= 1;
  CHECK(openError(settings).is("WALSHIP_ERR_LOG_FOREIGN"));
  settings = smallSettings(dir.path());
  settings.geometry.segmentPages = 3;
  CHECK(openError(settings).is("WALSHIP_ERR_LOG_FOREIGN"));
}

TEST_CASE("a segment of another cluster's log is found, wherever it stands") {
  for (size_t index = 0; index < 5; ++index) {
    const ScratchDirectory dir;
    const ScratchDirectory other;
    const auto made = make(dir.path());
    const auto foreign = make(other.path(), true, 99);
    writeFile(made.segments[index].file, readFile(foreign.segments[index].file));
    const Error error = openError(smallSettings(dir.path()));
    CHECK(error.is("WALSHIP_ERR_LOG_FOREIGN"));
    CHECK(error.file == made.segments[index].file);
    CHECK(error.offset >= 0);
  }
}

TEST_CASE("a segment of the same cluster's log with another history is found at the latest when it is read") {
  const ScratchDirectory dir;
  const ScratchDirectory other;
  const auto made = make(dir.path());
  {
    RecoveryReport report;
    auto log = Log::open(smallSettings(other.path()), &report);
    Writer writer(*log.value(), report.tail, 2, 5);
    REQUIRE(writer.append(1'100'000).ok());
    REQUIRE(writer.commit().ok());
    REQUIRE(log.value()->close(writer.tail()).ok());
  }
  const std::string& file = made.segments[2].file;
  writeFile(file, readFile(other / file.substr(file.find_last_of('/') + 1)));
  auto verified = verifyLog(dir.path(), {});
  REQUIRE(verified.ok());
  CHECK(verified.value().problems.size() == 2);  // where it begins, and where the next one begins
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  std::vector<std::byte> page(kPageBytesMin);
  CHECK(log.value()->readPage(7, page).error().is("WALSHIP_ERR_LOG_CORRUPT"));
}

TEST_CASE("a segment of a wrong size is an error that names it") {
  for (size_t index = 0; index < 5; ++index) {
    for (const int64_t change : {-1, 1, -100'000}) {
      const ScratchDirectory dir;
      const auto made = make(dir.path());
      const std::string& file = made.segments[index].file;
      auto bytes = readFile(file);
      bytes.resize(bytes.size() + static_cast<size_t>(change));
      writeFile(file, bytes);
      const Error error = openError(smallSettings(dir.path()));
      CHECK(error.is("WALSHIP_ERR_LOG_CORRUPT"));
      CHECK(error.file == file);
      auto verified = verifyLog(dir.path(), {});
      REQUIRE(verified.ok());
      CHECK(verified.value().problems.front().file == file);
    }
  }
}

TEST_CASE("files that nobody knows are left alone and named") {
  const ScratchDirectory dir;
  make(dir.path());
  const std::vector<std::string> strays = {
      "notes.txt", "0000000000000000.wal.bak", "00000000000000AB.wal", "spare-x", "spare-", "1.wal"};
  for (const std::string& name : strays) writeFile(dir / name, bytesOf(uint64_t{1}));
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  for (const std::string& name : strays) {
    CHECK(report.note.find(name) != std::string::npos);
    CHECK(sizeOf(dir / name).value() == 8);
  }
}

TEST_CASE("without its mark a log is walked from its beginning, with a note") {
  for (const bool damaged : {false, true}) {
    const ScratchDirectory dir;
    const auto made = make(dir.path());
    if (damaged) {
      flipBit(dir / "mark", 20);
      flipBit(dir / "mark", 4096 + 20);
    } else {
      REQUIRE(removeFile(dir / "mark").ok());
    }
    RecoveryReport report;
    auto log = Log::open(smallSettings(dir.path()), &report);
    REQUIRE(log.ok());
    CHECK(report.tail == made.tail);
    CHECK(report.note.find(damaged ? "damaged" : "missing") != std::string::npos);
    CHECK(holdsOnlyWhatWasAppended(*log.value(), report.tail));
  }
}

TEST_CASE("one slot of the mark is enough") {
  for (const uint64_t slot : {0u, 4096u}) {
    const ScratchDirectory dir;
    const auto made = make(dir.path(), false);
    flipBit(dir / "mark", slot + 33);
    RecoveryReport report;
    auto log = Log::open(smallSettings(dir.path()), &report);
    REQUIRE(log.ok());
    CHECK(report.tail == made.tail);
  }
}

TEST_CASE("without its mark a log that breaks off before newer pages is refused") {
  const ScratchDirectory dir;
  const auto made = make(dir.path());
  REQUIRE(removeFile(dir / "mark").ok());
  flipBit(made.segments[1].file, 70'000);
  const Error error = openError(smallSettings(dir.path()));
  CHECK(error.is("WALSHIP_ERR_LOG_CORRUPT"));
  CHECK(error.file == made.segments[1].file);
  CHECK(error.offset <= 70'000);
  CHECK(error.offset >= 65'536);
}

TEST_CASE("a damaged mark without segments is refused: what was there is not known") {
  const ScratchDirectory dir;
  {
    RecoveryReport report;
    REQUIRE(Log::open(smallSettings(dir.path()), &report).ok());
  }
  flipBit(dir / "mark", 20);
  flipBit(dir / "mark", 4096 + 20);
  CHECK(openError(smallSettings(dir.path())).is("WALSHIP_ERR_LOG_CORRUPT"));
}

TEST_CASE("a mark that contradicts the log is an error") {
  const ScratchDirectory dir;
  const auto made = make(dir.path());
  auto file = MarkFile::open(dir.path());
  REQUIRE(file.ok());
  const auto with = [&](LogPosition position) {
    REQUIRE(file.value().writeDurably({position, 0, false, smallGeometry()}).ok());
    const Error error = openError(smallSettings(dir.path()));
    CHECK(error.file == made.segments.back().file);
    CHECK(error.offset >= 0);
    return std::string(error.code);
  };
  LogPosition position = made.tail;
  position.headerChecksum ^= 1;
  CHECK(with(position) == "WALSHIP_ERR_LOG_CORRUPT");
  position = made.tail;
  position.lsn += 1;
  CHECK(with(position) == "WALSHIP_ERR_LOG_CORRUPT");
  position = made.tail;
  position.lsn -= 1;
  CHECK(with(position) == "WALSHIP_ERR_LOG_CORRUPT");
  position = made.tail;
  position.offset += 8;
  CHECK(with(position) == "WALSHIP_ERR_LOG_CORRUPT");
  REQUIRE(file.value().writeDurably({made.tail, 0, false, smallGeometry()}).ok());
  RecoveryReport report;
  CHECK(Log::open(smallSettings(dir.path()), &report).ok());
}

TEST_CASE("a flipped bit anywhere below the mark is found by open, read and verify, with file and offset") {
  const ScratchDirectory dir;
  const auto made = make(dir.path(), false);
  std::mt19937 random(3);
  const uint64_t logBytes = made.tail.page * kPageBytesMin + made.tail.offset;
  int foundByOpen = 0;
  int foundByRead = 0;
  for (int count = 0; count < 1500; ++count) {
    // Every third one in the page of the mark: those are found by open.
    const uint64_t at =
        count % 3 == 0 ? made.tail.page * kPageBytesMin + random() % made.tail.offset : random() % logBytes;
    const uint64_t page = at / kPageBytesMin;
    const std::string& file = made.segments[page / 4].file;
    const uint64_t offset = at % smallGeometry().segmentBytes();
    const auto pageOffset = static_cast<int64_t>(offset - offset % kPageBytesMin);
    const int bit = static_cast<int>(random() % 8);
    CAPTURE(at);
    flipBit(file, offset, bit);
    const auto names = [&](const Error& error) {
      return error.is("WALSHIP_ERR_LOG_CORRUPT") && error.file == file && error.offset >= pageOffset &&
             error.offset <= static_cast<int64_t>(offset);
    };
    auto verified = verifyLog(dir.path(), {});
    REQUIRE(verified.ok());
    REQUIRE(verified.value().problems.size() >= 1);
    CHECK(names(verified.value().problems.front()));
    RecoveryReport report;
    auto log = Log::open(smallSettings(dir.path()), &report);
    if (log) {
      ++foundByRead;
      std::vector<std::byte> bytes(kPageBytesMin);
      auto read = log.value()->readPage(page, bytes);
      REQUIRE_FALSE(read.ok());
      CHECK(names(read.error()));
    } else {
      ++foundByOpen;
      CHECK(names(log.error()));
    }
    flipBit(file, offset, bit);
  }
  CHECK(foundByOpen >= 500);
  CHECK(foundByRead >= 500);
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  CHECK(holdsOnlyWhatWasAppended(*log.value(), made.tail));
}

TEST_CASE("frames that vanished from the end of a page are missed") {
  const ScratchDirectory dir;
  const auto made = make(dir.path());
  // The last frame of page 5, all of it: what is left of the page is valid by itself.
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  std::vector<std::byte> page(kPageBytesMin);
  auto end = log.value()->readPage(5, page);
  REQUIRE(end.ok());
  const LogPosition before = boundaryAt(page, end.value().offset, end.value().lsn - 1);
  auto fd = openFile(made.segments[1].file, O_RDWR);
  REQUIRE(zeroAt(fd.value().get(), kPageBytesMin + before.offset, kPageBytesMin - before.offset, "").ok());
  auto again = log.value()->readPage(5, page);
  REQUIRE_FALSE(again.ok());
  CHECK(again.error().is("WALSHIP_ERR_LOG_CORRUPT"));
  CHECK(again.error().offset == kPageBytesMin + before.offset);
  log.value().reset();
  auto verified = verifyLog(dir.path(), {});
  REQUIRE(verified.ok());
  CHECK(verified.value().problems.size() == 1);
}

TEST_CASE("an interrupted trim is finished by the next open") {
  const ScratchDirectory dir;
  const auto made = make(dir.path());
  auto file = MarkFile::open(dir.path());
  REQUIRE(file.ok());
  REQUIRE(file.value().writeDurably({made.tail, made.segments[3].firstPage, false, smallGeometry()}).ok());
  // As if the crash came with two of three segments gone, in whatever order.
  REQUIRE(removeFile(made.segments[1].file).ok());
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  CHECK(report.tail == made.tail);
  CHECK(log.value()->firstPage() == made.segments[3].firstPage);
  CHECK(report.note.find("trim") != std::string::npos);
  CHECK_FALSE(sizeOf(made.segments[0].file).ok());
  CHECK_FALSE(sizeOf(made.segments[2].file).ok());
}

TEST_CASE("spares of a log that is gone are not taken over") {
  const ScratchDirectory dir;
  const auto made = make(dir.path());
  REQUIRE(renameFile(made.segments[0].file, dir / "spare-77").ok());
  for (size_t index = 1; index < 5; ++index) REQUIRE(removeFile(made.segments[index].file).ok());
  REQUIRE(removeFile(dir / "mark").ok());
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  CHECK_FALSE(sizeOf(dir / "spare-77").ok());
}

}  // namespace
}  // namespace walship::test

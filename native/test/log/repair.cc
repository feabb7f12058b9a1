// Pages put right in place, while the log is open and goes on.
#include <doctest/doctest.h>

#include "base/checksum.h"
#include "log/copy.h"
#include "test/log/made.h"

namespace walship::test {
namespace {

using Page = std::vector<std::byte>;

Page rawPage(const Log& log, uint64_t page) {
  Page bytes(kPageBytesMin);
  log.readRaw(page, 0, bytes);
  return bytes;
}

TEST_CASE("repair: a damaged page is put right, and nothing else can be put anywhere") {
  const ScratchDirectory dir;
  make(dir.path());
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path(), 1), &report);
  REQUIRE(log.ok());
  Log& open = *log.value();
  const Page right = rawPage(open, 5);
  const std::string file = open.segments()[1].file;
  const auto whole = readFile(file);
  flipBit(file, kPageBytesMin + 777);
  const uint64_t bad = checksum(rawPage(open, 5));

  const auto refused = [&](uint64_t page, Bytes bytes, uint64_t replaces, const char* code) {
    const auto outcome = open.repairPage(page, bytes, replaces);
    return !outcome && outcome.error().is(code) && checksum(rawPage(open, 5)) == bad;
  };
  CHECK(refused(5, right, checksum(right), "WALSHIP_ERR_PAGE_CHANGED"));
  CHECK(refused(5, rawPage(open, 6), bad, "WALSHIP_ERR_PAGE_NUMBER"));
  CHECK(refused(5, Page(kPageBytesMin), bad, "WALSHIP_ERR_PAGE_INVALID"));
  CHECK(refused(5, rawPage(open, 5), bad, "WALSHIP_ERR_FRAME_INVALID"));
  CHECK(refused(report.tail.page, right, bad, "WALSHIP_ERR_LOG_POSITION"));
  REQUIRE(open.repairPage(5, right, bad).ok());
  CHECK(readFile(file) == whole);

  // The log goes on as if nothing had been.
  Writer writer(open, report.tail);
  REQUIRE(writer.append(100'000).ok());
  REQUIRE(writer.commit().ok());
  REQUIRE(open.close(writer.tail()).ok());
}

TEST_CASE("repair: segment files get their size back, also one that is gone, and the one being written") {
  const ScratchDirectory dir;
  const MadeLog made = make(dir.path());
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path(), 1), &report);
  REQUIRE(log.ok());
  Log& open = *log.value();
  CHECK(open.shortSegments(false).value().empty());
  const uint64_t full = smallGeometry().segmentBytes();
  const auto tailBytes = readFile(made.segments.back().file);
  REQUIRE(::truncate(made.segments[1].file.c_str(), 100'000) == 0);
  REQUIRE(::unlink(made.segments[2].file.c_str()) == 0);
  REQUIRE(::unlink(made.segments.back().file.c_str()) == 0);
  const Page before = rawPage(open, 4);

  const auto found = open.shortSegments(true);
  REQUIRE(found.ok());
  REQUIRE(found.value().size() == 3);
  CHECK(found.value()[0].bytes == 100'000);
  CHECK(found.value()[1].bytes == 0);
  CHECK(found.value()[1].firstPage == 8);
  for (const SegmentInfo& segment : made.segments) CHECK(sizeOf(segment.file).value() == full);
  // The one being written still had its content under no name.
  CHECK(readFile(made.segments.back().file) == tailBytes);
  CHECK(rawPage(open, 4) == before);
  CHECK(allZero(rawPage(open, 8)));
  CHECK(open.shortSegments(false).value().empty());

  Writer writer(open, report.tail);
  REQUIRE(writer.append(10'000).ok());
  REQUIRE(writer.commit().ok());
  CHECK(readFile(made.segments.back().file) != tailBytes);
}

TEST_CASE("copies: every damage of a page is seen, and epochs that the history does not have there") {
  const ScratchDirectory dir;
  make(dir.path());
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path(), 1), &report);
  REQUIRE(log.ok());
  Page page = rawPage(*log.value(), 6);
  const auto state = [&](const EpochHistory& history) { return examine(page, smallGeometry(), 6, history).state; };
  const uint64_t first = examine(page, smallGeometry(), 6, {}).firstLsn;
  const uint64_t epoch = loadAt<PageHeader>(page, 0).epoch;
  CHECK(state({}) == CopyState::good);
  CHECK(state({{epoch, 0}}) == CopyState::good);
  CHECK(state({{epoch, first}}) == CopyState::good);
  CHECK(state({{epoch, 0}, {epoch + 1, first}}) == CopyState::stale);
  CHECK(state({{epoch, 0}, {epoch + 1, first + 1}}) == CopyState::stale);
  CHECK(state({{epoch, 0}, {epoch + 1, examine(page, smallGeometry(), 6, {}).endLsn}}) == CopyState::good);
  CHECK(state({{epoch + 1, 0}}) == CopyState::stale);
  CHECK(examine(page, smallGeometry(), 7, {}).state == CopyState::damaged);
  for (size_t byte = 0; byte < page.size(); byte += 13) {
    page[byte] ^= std::byte{16};
    CHECK(state({}) == CopyState::damaged);
    page[byte] ^= std::byte{16};
  }
  CHECK(examine(Page(kPageBytesMin), smallGeometry(), 6, {}).state == CopyState::damaged);
}

}  // namespace
}  // namespace walship::test

#include <doctest/doctest.h>

#include "test/log/support.h"

namespace walship::test {
namespace {

TEST_CASE("a log gives back what was written, and reopens cleanly") {
  const ScratchDirectory dir;
  LogPosition tail;
  {
    RecoveryReport report;
    auto log = Log::open(smallSettings(dir.path(), 1), &report);
    REQUIRE(log.ok());
    CHECK(report.note.empty());
    CHECK(report.tail == LogPosition{});
    Writer writer(*log.value(), report.tail);
    for (uint64_t size : {1, 7, 8, 100, 65'000, 200'000, 1'000'000, 3}) {
      REQUIRE(writer.append(size).ok());
      REQUIRE(writer.commit().ok());
    }
    tail = writer.tail();
    CHECK(holdsOnlyWhatWasAppended(*log.value(), tail));
    CHECK(log.value()->segments().size() == 5);
    for (uint64_t lsn = 0; lsn <= tail.lsn; lsn += 9'973) {
      auto page = log.value()->pageOf(lsn);
      REQUIRE(page.ok());
      std::vector<std::byte> bytes(kPageBytesMin);
      auto end = log.value()->readPage(page.value(), bytes);
      REQUIRE(end.ok());
      CHECK(loadAt<PageHeader>(bytes, 0).firstLsn <= lsn);
      CHECK(lsn < end.value().lsn);
      auto position = log.value()->positionAt(lsn);
      REQUIRE(position.ok());
      CHECK(position.value().lsn <= lsn);
    }
    CHECK(log.value()->positionAt(tail.lsn).value() == tail);
    CHECK(log.value()->pageOf(tail.lsn).value() == tail.page);
    auto closed = log.value()->close(tail);
    REQUIRE(closed.ok());
  }
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  CHECK(report.tail == tail);
  CHECK(report.note.empty());
  CHECK(report.discardedBytes == 0);
  CHECK(holdsOnlyWhatWasAppended(*log.value(), tail));
}

}  // namespace
}  // namespace walship::test

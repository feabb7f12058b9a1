// Readers while one thread writes, trims and truncates: they get valid pages or an error that says why not.
#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "test/log/support.h"

namespace walship::test {
namespace {

bool expected(const Error& error) {
  return error.is("WALSHIP_ERR_LOG_TRIMMED") || error.is("WALSHIP_ERR_LOG_POSITION");
}

TEST_CASE("reading is safe while the log grows, is trimmed and truncated") {
  const ScratchDirectory dir;
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path(), 2), &report);
  REQUIRE(log.ok());
  Log& shared = *log.value();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> tail{0};
  std::atomic<uint64_t> pagesRead{0};
  std::atomic<uint64_t> wrong{0};
  std::string firstWrong;
  std::vector<std::thread> readers;
  for (uint32_t index = 0; index < 2; ++index) {
    readers.emplace_back([&, index] {
      std::mt19937_64 random(index);
      std::vector<std::byte> page(kPageBytesMin);
      const auto fail = [&](const std::string& why) {
        if (wrong.fetch_add(1) == 0) firstWrong = why;
      };
      while (!stop.load()) {
        const uint64_t first = shared.firstLsn();
        const uint64_t span = tail.load() - std::min(tail.load(), first) + 1;
        const uint64_t lsn = first + (random() % 4 == 0 ? span : random() % span);
        auto number = shared.pageOf(lsn);
        if (!number) {
          if (!expected(number.error())) fail(number.error().message);
          continue;
        }
        auto end = shared.readPage(number.value(), page);
        if (!end) {
          if (!expected(end.error())) fail(end.error().message);
          continue;
        }
        forEachFrame(page, 0, end.value().offset, [&](const FrameHeader& header, Bytes payload) {
          for (size_t at = 0; at < payload.size(); at += 97) {
            if (payload[at] != byteAt(header.lsn + at)) {
              fail("wrong byte at LSN " + std::to_string(header.lsn + at));
            }
          }
          return true;
        });
        if (auto position = shared.positionAt(lsn); !position && !expected(position.error())) {
          fail(position.error().message);
        }
        shared.bytesOnDisk();
        shared.segments();
        pagesRead.fetch_add(1);
      }
    });
  }
  std::mt19937 random(9);
  uint64_t epoch = 1;
  Writer writer(shared, report.tail, epoch);
  const uint64_t until = monotonicNs() + 1'500'000'000;
  int cuts = 0;
  while (monotonicNs() < until || pagesRead.load() < 200) {
    for (int count = 0; count < 20; ++count) {
      REQUIRE(writer.append(1 + random() % 20'000).ok());
      REQUIRE(writer.commit().ok());
      tail.store(writer.tail().lsn);
    }
    if (random() % 2 == 0) {
      REQUIRE(shared.trimBelow(writer.tail().lsn - std::min<uint64_t>(writer.tail().lsn, 1'000'000)).ok());
    }
    if (random() % 4 == 0) {
      const uint64_t lsn =
          writer.tail().lsn - std::min<uint64_t>(writer.tail().lsn - shared.firstLsn(), 400'000);
      const LogPosition to = shared.positionAt(lsn).value();
      REQUIRE(shared.truncate(to, writer.tail()).ok());
      tail.store(to.lsn);
      writer = Writer(shared, to, ++epoch);
      ++cuts;
      const std::string file = dir / ("diverged-" + std::to_string(epoch - 1) + "-" + hex16(to.lsn) + ".wal");
      REQUIRE(removeFile(file).ok());
    }
  }
  stop.store(true);
  for (std::thread& reader : readers) reader.join();
  CHECK(wrong.load() == 0);
  CHECK(firstWrong == "");
  CHECK(cuts > 0);
  REQUIRE(shared.close(writer.tail()).ok());
}

}  // namespace
}  // namespace walship::test

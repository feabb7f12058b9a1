// A process that writes, syncs, trims, truncates and reports what it has done through a pipe is killed at
// random moments.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "log/segment.h"
#include "test/log/support.h"
#include "test/sanitized.h"

namespace walship::test {
namespace {

enum class Kind : uint64_t { opened, flushed, cutting, cut, failed };

struct Report {
  Kind kind;
  uint64_t lsn;
  uint64_t epoch;
};

void tell(int pipe, Kind kind, uint64_t lsn, uint64_t epoch) {
  const Report report{kind, lsn, epoch};
  if (::write(pipe, &report, sizeof report) != sizeof report) ::_exit(1);
}

// The child: never returns.
[[noreturn]] void writeUntilKilled(const std::string& dir, int pipe, uint32_t seed) {
  std::mt19937 random(seed);
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir, 2), &report);
  if (!log) tell(pipe, Kind::failed, 0, 0);
  if (!log) ::_exit(1);
  uint64_t epoch = report.tail.epoch + 1;
  tell(pipe, Kind::opened, report.tail.lsn, epoch);
  Writer writer(*log.value(), report.tail, epoch);
  for (;;) {
    Result<void> done;
    const auto choice = static_cast<uint32_t>(random() % 100);
    if (choice < 85) {
      done = writer.append(1 + random() % (choice < 10 ? 200'000 : 3'000));
      if (done && random() % 2 == 0) done = writer.commit();
      if (done && log.value()->positionAt(UINT64_MAX).value() == writer.tail()) {
        done = writer.commit();
        if (done) tell(pipe, Kind::flushed, writer.tail().lsn, epoch);
      }
    } else if (choice < 93) {
      const uint64_t tail = writer.tail().lsn;
      auto trimmed = log.value()->trimBelow(tail - std::min<uint64_t>(tail, 300'000 + random() % 300'000));
      if (!trimmed) done = trimmed.error();
    } else {
      done = writer.commit();
      const LogPosition tail = writer.tail();
      const uint64_t span = tail.lsn - log.value()->firstLsn();
      const auto to = log.value()->positionAt(tail.lsn - random() % (std::min<uint64_t>(span, 250'000) + 1));
      if (done && to) {
        tell(pipe, Kind::cutting, to.value().lsn, epoch);
        done = log.value()->truncate(to.value(), tail);
        ++epoch;
        if (done) tell(pipe, Kind::cut, to.value().lsn, epoch);
        writer = Writer(*log.value(), to.value(), epoch);
      }
    }
    if (!done) tell(pipe, Kind::failed, 0, 0);
    if (!done) ::_exit(1);
  }
}

// Frames at or above `lsn` all have at least `epoch`.
bool newerFrom(const Log& log, const LogPosition& tail, uint64_t lsn, uint64_t epoch) {
  std::vector<std::byte> page(log.geometry().pageBytes);
  bool right = true;
  for (uint64_t number = log.firstPage(); tail.lsn > log.firstLsn() && number <= tail.page; ++number) {
    auto end = log.readPage(number, page);
    if (!end) return false;
    forEachFrame(page, 0, end.value().offset, [&](const FrameHeader& header, Bytes) {
      right = right && (header.lsn < lsn || header.epoch >= epoch);
      return right;
    });
  }
  return right;
}

TEST_CASE(
    "a writer killed at any moment loses nothing that it reported flushed, and brings nothing back that it "
    "cut") {
  const ScratchDirectory dir;
  std::mt19937 random(77);
  int kills = 0;
  int cuts = 0;
  int midCut = 0;
  uint64_t flushes = 0;
  uint64_t lastFirstLsn = 0;
  bool trimmed = false;
  while (kills < 220 / kEveryNthCase) {
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    const auto seed = static_cast<uint32_t>(random());
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      ::close(pipe[0]);
      writeUntilKilled(dir.path(), pipe[1], seed);
    }
    ::close(pipe[1]);
    // A random moment after it has opened the log, and, one time in eight, while it does.
    Report report{};
    uint64_t flushed = 0;
    uint64_t cutLsn = UINT64_MAX;
    uint64_t cutEpoch = 0;
    bool cutting = false;
    if (random() % 8 != 0) {
      REQUIRE(::read(pipe[0], &report, sizeof report) == sizeof report);
      REQUIRE(report.kind == Kind::opened);
      flushed = report.lsn;
    }
    const auto take = [&] {
      CHECK(report.kind != Kind::failed);
      if (report.kind == Kind::opened || report.kind == Kind::flushed) flushed = report.lsn;
      flushes += report.kind == Kind::flushed;
      cutting = report.kind == Kind::cutting;
      if (report.kind == Kind::cutting) flushed = std::min(flushed, report.lsn);
      if (report.kind == Kind::cut) {
        cutEpoch = report.epoch;
        cutLsn = report.lsn;
        ++cuts;
      }
    };
    // Some reports later, however long that takes here, and then at any moment of what it does next.
    for (uint32_t reports = random() % 16; reports > 0 && report.kind != Kind::failed; --reports) {
      REQUIRE(::read(pipe[0], &report, sizeof report) == sizeof report);
      take();
    }
    const uint64_t until = monotonicNs() + random() % 3'000'000;
    while (monotonicNs() < until) ::usleep(20);
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    while (::read(pipe[0], &report, sizeof report) == sizeof report) take();
    ::close(pipe[0]);
    ++kills;
    midCut += cutting;

    RecoveryReport recovered;
    auto log = Log::open(smallSettings(dir.path(), 1), &recovered);
    INFO((log.ok() ? std::string() : log.error().message));
    REQUIRE(log.ok());
    REQUIRE(recovered.tail.lsn >= flushed);
    REQUIRE(holdsOnlyWhatWasAppended(*log.value(), recovered.tail));
    if (cutLsn != UINT64_MAX) REQUIRE(newerFrom(*log.value(), recovered.tail, cutLsn, cutEpoch));
    trimmed = trimmed || log.value()->firstLsn() > lastFirstLsn;
    lastFirstLsn = log.value()->firstLsn();
    if (random() % 3 == 0) REQUIRE(log.value()->close(recovered.tail).ok());
    log.value().reset();
    // What the cuts kept is not what is tested here, and would fill the scratch directory.
    const DirectoryListing listing = listDirectory(dir.path()).take();
    for (const std::string& file : listing.diverged) REQUIRE(removeFile(file).ok());
  }
  MESSAGE(kills << " kills, " << flushes << " flushes and " << cuts << " cuts reported, " << midCut
                << " kills in the middle of a cut");
  CHECK(flushes > 700 / kEveryNthCase);
  CHECK(cuts > 50 / kEveryNthCase);
  CHECK(trimmed);
}

}  // namespace
}  // namespace walship::test

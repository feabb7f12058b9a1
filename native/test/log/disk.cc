// Where a log cannot be opened or cannot grow: in use, no directory, a full disk, a read-only one.
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <thread>

#include "log/offline.h"
#include "test/log/made.h"

namespace walship::test {
namespace {

TEST_CASE("a directory that is open elsewhere is refused") {
  const ScratchDirectory dir;
  make(dir.path());
  RecoveryReport report;
  auto log = Log::open(smallSettings(dir.path()), &report);
  REQUIRE(log.ok());
  CHECK(openError(smallSettings(dir.path())).is("WALSHIP_ERR_LOG_LOCKED"));
  CHECK(inspectLog(dir.path()).value().inUse);
  log.value().reset();
  CHECK_FALSE(inspectLog(dir.path()).value().inUse);

  int opened[2];
  int done[2];
  REQUIRE(::pipe(opened) == 0);
  REQUIRE(::pipe(done) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(done[1]);
    auto held = Log::open(smallSettings(dir.path()), &report);
    char byte = held.ok() ? 1 : 0;
    static_cast<void>(::write(opened[1], &byte, 1));
    static_cast<void>(::read(done[0], &byte, 1));
    ::_exit(0);
  }
  char byte = 0;
  REQUIRE(::read(opened[0], &byte, 1) == 1);
  CHECK(byte == 1);
  CHECK(openError(smallSettings(dir.path())).is("WALSHIP_ERR_LOG_LOCKED"));
  CHECK(inspectLog(dir.path()).value().inUse);
  ::close(done[1]);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  for (int fd : {opened[0], opened[1], done[0]}) ::close(fd);
  CHECK(Log::open(smallSettings(dir.path()), &report).ok());
}

TEST_CASE("a path that is no directory, and settings that cannot be") {
  const ScratchDirectory dir;
  writeFile(dir / "file", {});
  CHECK(openError(smallSettings(dir / "file")).is("WALSHIP_ERR_LOG_IO"));
  CHECK(openError(smallSettings(dir / "file/log")).is("WALSHIP_ERR_LOG_IO"));
  auto settings = smallSettings(dir / "log");
  settings.geometry.pageBytes = 1000;
  CHECK(openError(settings).is("WALSHIP_ERR_SETTING"));
  RecoveryReport report;
  CHECK(Log::open(smallSettings(dir / "a/b/c/log"), &report).ok());
}

// Runs `body` with a tmpfs of its own mounted on `dir`, in a mount namespace that dies with the thread.
// false, with the reason printed: this process may not mount.
template <class Body>
bool withMount(const std::string& dir, const char* options, Body&& body) {
  bool mounted = false;
  int error = 0;
  std::thread([&] {
    mounted = ::unshare(CLONE_NEWNS) == 0 &&
              ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
              ::mount("tmpfs", dir.c_str(), "tmpfs", 0, options) == 0;
    error = errno;
    if (mounted) body();
  }).join();
  if (!mounted) MESSAGE("skipped: cannot mount a tmpfs: " << std::strerror(error));
  return mounted;
}

TEST_CASE(
    "a full disk: the error can be tried again, nothing is lost, and the log goes on when there is room") {
  const ScratchDirectory dir;
  withMount(dir.path(), "size=1200k", [&] {
    auto settings = smallSettings(dir / "log", 1);
    RecoveryReport report;
    auto log = Log::open(settings, &report);
    CHECK(log.ok());
    if (!log) return;
    Writer writer(*log.value(), report.tail);
    Result<void> written;
    LogPosition durable;
    for (int count = 0; count < 1000 && written; ++count) {
      written = writer.append(10'000);
      if (written) written = writer.commit();
      if (written) durable = writer.tail();
    }
    CHECK_FALSE(written.ok());
    if (written) return;
    CHECK(written.error().is("WALSHIP_ERR_DISK_FULL"));
    CHECK(written.error().message.find(dir.path()) != std::string::npos);
    CHECK(durable.lsn > 700'000);
    // Still full.
    CHECK(writer.commit().error().is("WALSHIP_ERR_DISK_FULL"));
    // Cutting needs room for what is cut: refused, and nothing changed.
    CHECK(log.value()
              ->truncate(log.value()->positionAt(100'000).value(), durable)
              .error()
              .is("WALSHIP_ERR_DISK_FULL"));
    CHECK(holdsOnlyWhatWasAppended(*log.value(), durable));
    // Room: the same frames go through, and more.
    CHECK(log.value()->trimBelow(500'000).ok());
    CHECK(writer.commit().ok());
    for (int count = 0; count < 20; ++count) {
      CHECK(writer.append(5'000).ok());
      CHECK(writer.commit().ok());
    }
    const LogPosition tail = writer.tail();
    log.value().reset();
    log = Log::open(settings, &report);
    CHECK(log.ok());
    CHECK(report.tail == tail);
    CHECK(holdsOnlyWhatWasAppended(*log.value(), tail));
  });
}

TEST_CASE("a disk that is full from the start") {
  const ScratchDirectory dir;
  withMount(dir.path(), "size=64k", [&] {
    RecoveryReport report;
    auto log = Log::open(smallSettings(dir / "log", 1), &report);
    CHECK(log.ok());
    if (!log) return;
    Writer writer(*log.value(), report.tail);
    CHECK(writer.append(100).ok());
    CHECK(writer.commit().error().is("WALSHIP_ERR_DISK_FULL"));
  });
}

TEST_CASE("a disk that is mounted read-only") {
  const ScratchDirectory dir;
  withMount(dir.path(), "size=4m", [&] {
    const auto made = make(dir / "log");
    CHECK(::mount(nullptr, dir.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
    RecoveryReport report;
    auto log = Log::open(smallSettings(dir / "log"), &report);
    CHECK_FALSE(log.ok());
    if (!log) CHECK(log.error().is("WALSHIP_ERR_DISK_READONLY"));
    log = Log::open(smallSettings(dir / "another"), &report);
    CHECK_FALSE(log.ok());
    if (!log) CHECK(log.error().is("WALSHIP_ERR_DISK_READONLY"));
    // Reading offline needs no writable disk.
    auto summary = inspectLog(dir / "log");
    CHECK(summary.ok());
    if (summary) CHECK(summary.value().tail == made.tail);
    auto verified = verifyLog(dir / "log", {});
    CHECK(verified.ok());
    if (verified) CHECK(verified.value().problems.empty());
  });
}

}  // namespace
}  // namespace walship::test

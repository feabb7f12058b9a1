// Copies of the database in the log, made while everybody writes: each record of one is what the transactions before it
// have left (rebuild() compares), and a node that begins at a copy has the whole database behind it.
#include <signal.h>
#include <sys/wait.h>

#include "databases/sqlite/applier.h"
#include "databases/sqlite/restore.h"
#include "test/databases/sqlite_lab.h"

namespace walship::test {
namespace {

const Capture::EventSink kNoEvents = [](const EngineEvent&) {};

void fill(const std::string& path, uint32_t pageBytes, int rows) {
  Database database(path);
  database.run("PRAGMA page_size=" + std::to_string(pageBytes));
  database.run("PRAGMA journal_mode=WAL");
  database.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
  database.run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < " + std::to_string(rows) +
               ") INSERT INTO t SELECT i, randomblob(900) FROM n");
}

std::unique_ptr<Capture> startCapture(Engine& engine, const std::string& path, bool wait) {
  CaptureSettings settings;
  settings.checkpointMs = 20;
  settings.checkpointBytes = 400'000;
  settings.wait = wait;
  auto capture = Capture::start(engine, path, settings, kNoEvents);
  if (!capture) FAIL(capture.error().code << ": " << capture.error().message);
  return capture.take();
}

// Grows, shrinks and grows the database again, in small transactions and in some that are several records.
class Writers {
 public:
  Writers(const std::string& path, int count) {
    for (int writer = 0; writer < count; ++writer) {
      threads_.emplace_back([this, path, writer] {
        Database database(path);
        std::mt19937 random(static_cast<uint32_t>(writer));
        while (!stopping_.load()) {
          const std::string below = std::to_string(random() % 3000);
          switch (random() % 40) {
            case 0: database.attempt("VACUUM"); break;
            case 1: database.attempt("DELETE FROM t WHERE id > " + below); break;
            case 2: database.attempt("INSERT INTO t(v) SELECT randomblob(800) FROM t LIMIT 2000"); break;
            case 3: database.attempt("UPDATE t SET v = randomblob(900)"); break;
            default: database.attempt("UPDATE t SET v = randomblob(700) WHERE id = " + below); break;
          }
          ++done_;
        }
      });
    }
  }
  ~Writers() { stop(); }
  void stop() {
    stopping_.store(true);
    for (auto& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  uint64_t done() const { return done_.load(); }

 private:
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> done_{0};
  std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("sqlite copy: made while others write and commit, for small and large pages") {
  setUpSqlite();
  for (const uint32_t pageBytes : {512u, 4096u, 65536u}) {
    for (const bool wait : {false, true}) {
      CAPTURE(pageBytes);
      CAPTURE(wait);
      Scratch scratch;
      const std::string path = scratch / "db";
      fill(path, pageBytes, 3000);
      auto engine = openPrimary(scratch / "log");
      auto capture = startCapture(*engine, path, wait);
      uint64_t snapshotLsn = 0;
      uint64_t copies = 0;
      {
        Writers writers(path, 2);
        // Four, and until others have written in the middle of one: on a busy host they may get no turn in so short a time.
        for (bool amid = false; copies < 4 || (!amid && copies < 1000); ++copies) {
          const uint64_t before = writers.done();
          auto copied = capture->snapshotNow();
          if (!copied) FAIL(copied.error().message);
          CHECK(capture->status().snapshotLsn > snapshotLsn);
          CHECK(capture->status().snapshotPages == 0);
          snapshotLsn = capture->status().snapshotLsn;
          amid |= writers.done() > before + 5;
          // Something is committed between two copies, so that they are different ones.
          while (writers.done() == before) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
      }
      REQUIRE(capture->stop());
      foldIn(path);
      const Rebuilt rebuilt = rebuild(*engine);
      CHECK(rebuilt.copies == copies);
      CHECK(rebuilt.snapshots == 1);
      CHECK(rebuilt.copiedBehindChanges > 0);
      const bool same = rebuilt.file == contentOf(path);
      CHECK(same);
      // From the last copy on alone: what a new node has behind it.
      auto restored = restoreSqlite(scratch / "log", scratch / "restored", {}, [](uint64_t, uint64_t) {});
      if (!restored) FAIL(restored.error().message);
      CHECK(restored.value().fromSnapshot);
      CHECK(restored.value().baseLsn == snapshotLsn);
      const bool restoredSame = contentOf(scratch / "restored") == contentOf(path);
      CHECK(restoredSame);
    }
  }
}

TEST_CASE("sqlite copy: a standby begins at one in a trimmed log, while the primary writes") {
  setUpSqlite();
  Scratch scratch;
  const std::string path = scratch / "db";
  fill(path, 4096, 2000);
  EngineSettings settings = settingsOf(scratch / "log", "a");
  // And what a standby that has come needs. Copies one behind the other without a pause would be past this before the
  // standby has said that it is there, and it would be refused as too far behind.
  settings.log.retainBytes = 64u << 20;
  auto engine = Engine::open(std::move(settings), [] {}).take();
  REQUIRE(engine->promote(1));
  auto capture = startCapture(*engine, path, false);
  std::unique_ptr<Engine> standby;
  std::unique_ptr<Applier> applier;
  {
    Writers writers(path, 1);
    while (engine->log().firstLsn() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    // Until one came when the standby was there: the log trims those before it.
    std::atomic<bool> begun{false};
    std::thread copier([&] {
      while (!begun.load()) {
        CHECK(capture->snapshotNow());
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
    EngineSettings second = settingsOf(scratch / "log-b", "b");
    second.appliedByHand = true;
    second.log.startLsn = 0;
    standby = Engine::open(std::move(second), [] {}).take();
    REQUIRE(standby->follow(ConnectTarget{{"127.0.0.1", engine->listenPort()}, "", "", 0, ""}));
    auto opened = Applier::open(*standby, scratch / "b", {});
    REQUIRE(opened);
    applier = opened.take();
    applier->start();
    for (int i = 0; i < 3000 && applier->appliedLsn() == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    begun.store(true);
    copier.join();
  }
  auto end = capture->captureNow();
  REQUIRE(end);
  for (int i = 0; i < 2000 && applier->appliedLsn() < end.value(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(applier->appliedLsn() >= end.value());
  CHECK(standby->log().firstLsn() > 0);
  CHECK_FALSE(applier->status().snapshotNeeded);
  CHECK(applier->status().snapshotPages == 0);
  applier->stop();
  REQUIRE(capture->stop());
  foldIn(path);
  foldIn(scratch / "b");
  const bool same = contentOf(path) == contentOf(scratch / "b");
  CHECK(same);
}

TEST_CASE("sqlite copy: a primary killed within one leaves no copy, and the log as good as before") {
  setUpSqlite();
  Scratch scratch;
  const std::string path = scratch / "db";
  fill(path, 4096, 3000);
  {
    // A database that was there before goes into the log whole, once.
    auto engine = openPrimary(scratch / "log");
    REQUIRE(startCapture(*engine, path, false)->stop());
  }
  std::mt19937 random(11);
  uint64_t restoredFromCopies = 0;
  for (int life = 0; life < 20; ++life) {
    const bool wait = random() % 2 == 0;
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      auto engine = openPrimary(scratch / "log");
      auto capture = startCapture(*engine, path, wait);
      if (::write(ready[1], "", 1) != 1) ::_exit(1);
      Writers writers(path, 1);
      bool copied = false;
      for (int tries = 0; !copied && tries < 100; ++tries) copied = capture->snapshotNow().ok();
      if (!copied || ::write(ready[1], "", 1) != 1) ::_exit(1);
      for (;;) static_cast<void>(capture->snapshotNow());
    }
    ::close(ready[1]);
    char byte = 0;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    // Every other one within its first copy, or within a later one.
    if (life % 2 == 1) REQUIRE(::read(ready[0], &byte, 1) == 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10 + random() % 120));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(WTERMSIG(status) == SIGKILL);
    ::close(ready[0]);  // not before: the child would end by SIGPIPE
    if (life % 5 != 4) continue;
    auto engine = openPrimary(scratch / "log");
    auto capture = startCapture(*engine, path, false);
    REQUIRE(capture->stop());
    foldIn(path);
    const Rebuilt rebuilt = rebuild(*engine);
    CHECK(rebuilt.snapshots == 1);
    const bool same = rebuilt.file == contentOf(path);
    CHECK(same);
    const std::string file = scratch / ("restored" + std::to_string(life));
    auto restored = restoreSqlite(scratch / "log", file, {}, [](uint64_t, uint64_t) {});
    if (!restored) FAIL(restored.error().message);
    if (restored.value().baseLsn > 0) ++restoredFromCopies;
    const bool restoredSame = contentOf(file) == contentOf(path);
    CHECK(restoredSame);
  }
  CHECK(restoredFromCopies > 0);
}

}  // namespace walship::test

// Capture on real databases: whatever is committed is in the log, once and in order, so that the log makes the same
// file.
#include "test/databases/sqlite_lab.h"

#include <signal.h>
#include <sys/wait.h>

#include "base/clock.h"

namespace walship::test {
namespace {

struct Events {
  std::mutex mutex;
  std::vector<EngineEvent> all;
  Capture::EventSink sink() {
    return [this](EngineEvent event) {
      const std::lock_guard lock(mutex);
      all.push_back(std::move(event));
    };
  }
  size_t count(const std::string& type) {
    const std::lock_guard lock(mutex);
    return static_cast<size_t>(std::count_if(all.begin(), all.end(), [&](const auto& event) { return event.type == type; }));
  }
};

CaptureSettings quick() {
  CaptureSettings settings;
  settings.checkpointMs = 20;
  settings.checkpointBytes = 200'000;
  return settings;
}

std::unique_ptr<Capture> startCapture(Engine& engine, const std::string& path, Events& events,
                                      const CaptureSettings& settings = quick()) {
  auto capture = Capture::start(engine, path, settings, events.sink());
  if (!capture) FAIL(capture.error().code << ": " << capture.error().message);
  return capture.take();
}

// One step of a workload that touches every way into the WAL.
void step(Database& database, std::mt19937& random) {
  const auto number = [&](uint32_t below) { return static_cast<uint32_t>(random() % below); };
  const auto row = [&](uint32_t bytes) {
    return "INSERT INTO t(v) VALUES (randomblob(" + std::to_string(bytes) + "));";
  };
  switch (number(14)) {
    case 0: database.attempt("BEGIN IMMEDIATE;" + row(300) + row(5000) + "ROLLBACK"); break;
    case 1:
      database.attempt("BEGIN IMMEDIATE;" + row(300) + "SAVEPOINT s;" + row(9000) + "ROLLBACK TO s;" + row(20) + "COMMIT");
      break;
    case 2: database.attempt("DELETE FROM t WHERE id % 7 = " + std::to_string(number(7))); break;
    case 3: database.attempt("UPDATE t SET v = randomblob(400) WHERE id % 11 = " + std::to_string(number(11))); break;
    case 4:
      if (number(10) == 0) database.attempt("VACUUM");
      break;
    case 5:
      // More than the page cache holds: pages are spilled, and written again.
      database.attempt("PRAGMA cache_size=10");
      database.attempt("BEGIN IMMEDIATE; UPDATE t SET v = randomblob(length(v)); UPDATE t SET v = randomblob(50);" +
                       row(50000) + "UPDATE t SET v = randomblob(60) WHERE id % 2; COMMIT");
      break;
    case 6: database.attempt("CREATE TABLE IF NOT EXISTS u" + std::to_string(number(3)) + "(a, b UNIQUE)"); break;
    case 7: database.attempt("DROP TABLE IF EXISTS u" + std::to_string(number(3))); break;
    case 8:
      // It would wait, in vain, for the one who pins the WAL, and keep all writers out meanwhile.
      database.attempt("PRAGMA busy_timeout=0; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA busy_timeout=10000");
      break;
    case 9:
      database.attempt("BEGIN IMMEDIATE; UPDATE t SET v = randomblob(length(v));" + row(90000) + "ROLLBACK");
      break;
    default: database.attempt(row(number(2000))); break;
  }
}

void createTable(const std::string& path, uint32_t pageBytes) {
  Database database(path);
  database.run("PRAGMA page_size=" + std::to_string(pageBytes));
  database.run("PRAGMA journal_mode=WAL");
  database.run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)");
}

void checkSame(Engine& engine, const std::string& path) {
  foldIn(path);
  const auto file = contentOf(path);
  const Rebuilt rebuilt = rebuild(engine);
  CHECK(rebuilt.file.size() == file.size());
  const bool same = rebuilt.file == file;
  CHECK(same);
}

}  // namespace

TEST_CASE("the log makes the same database file, whatever wrote it, for every page size") {
  setUpSqlite();
  uint64_t restarts = 0;
  for (uint32_t pageBytes = 512; pageBytes <= 65536; pageBytes *= 2) {
    CAPTURE(pageBytes);
    for (const bool wait : {false, true}) {
      Scratch scratch;
      Events events;
      const std::string path = scratch / "db";
      createTable(path, pageBytes);
      auto engine = openPrimary(scratch / "log");
      CaptureSettings settings = quick();
      settings.wait = wait;
      settings.checkpointBytes = std::max<uint64_t>(200'000, pageBytes * 20);
      auto capture = startCapture(*engine, path, events, settings);
      std::vector<std::thread> writers;
      for (uint32_t writer = 0; writer < 2; ++writer) {
        writers.emplace_back([&, writer] {
          Database database(path);
          std::mt19937 random(pageBytes + writer);
          for (int i = 0; i < 60; ++i) step(database, random);
        });
      }
      for (auto& writer : writers) writer.join();
      CHECK(capture->captureNow());
      const CaptureStatus status = capture->status();
      restarts += status.restarts;
      CHECK(status.snapshots == 1);  // there was a database before
      CHECK_FALSE(status.problem);
      REQUIRE(capture->stop());
      checkSame(*engine, path);
      CHECK(events.count("sqlite-snapshot") == 0);
    }
  }
  CHECK(restarts > 8);  // of the WAL, in sixteen runs
}

TEST_CASE("other processes' commits are captured") {
  setUpSqlite();
  Scratch scratch;
  Events events;
  const std::string path = scratch / "db";
  auto engine = openPrimary(scratch / "log");
  auto capture = startCapture(*engine, path, events);
  const std::string shell = "sqlite3 -cmd '.timeout 10000' " + path + " ";
  REQUIRE(std::system((shell + "'CREATE TABLE t(id INTEGER PRIMARY KEY, v)'").c_str()) == 0);
  for (int i = 0; i < 30; ++i) {
    REQUIRE(std::system((shell + "\"INSERT INTO t(v) SELECT randomblob(9000); PRAGMA wal_checkpoint\" > /dev/null").c_str()) ==
            0);
    Database(path).run("INSERT INTO t(v) VALUES (1)");
  }
  auto all = capture->captureNow();
  REQUIRE(all);
  CHECK(capture->status().transactions >= 61);
  REQUIRE(capture->stop());
  checkSame(*engine, path);
  CHECK(rebuild(*engine).snapshots == 1);  // of the new file's one page
}

TEST_CASE("a clean stop needs no snapshot at the next start; a change meanwhile is found") {
  setUpSqlite();
  Scratch scratch;
  Events events;
  const std::string path = scratch / "db";
  auto engine = openPrimary(scratch / "log");
  for (int i = 0; i < 3; ++i) {
    auto capture = startCapture(*engine, path, events);
    {
      Database database(path);
      database.run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)");
      for (int row = 0; row < 100; ++row) database.run("INSERT INTO t(v) VALUES (randomblob(900))");
    }
    REQUIRE(capture->stop());
    CHECK(rebuild(*engine).snapshots == 1);  // of the new file's one page
    checkSame(*engine, path);  // which leaves the file as it is
  }
  Database(path).run("INSERT INTO t(v) VALUES ('behind the back')");
  auto capture = startCapture(*engine, path, events);
  REQUIRE(capture->stop());
  CHECK(rebuild(*engine).snapshots == 2);
  checkSame(*engine, path);
}

TEST_CASE("a database closed in order needs no snapshot, though starts after that are killed at any moment") {
  setUpSqlite();
  Scratch scratch;
  const std::string path = scratch / "db";
  const auto live = [&](Events& events) {
    const uint64_t before = monotonicNs();
    auto engine = openPrimary(scratch / "log");
    auto capture = startCapture(*engine, path, events);
    Database(path).run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v)");
    Database(path).run("INSERT INTO t(v) VALUES (1)");
    const uint64_t lifeNs = elapsedNs(before, monotonicNs());
    REQUIRE(capture->stop());
    return lifeNs;
  };
  Events quiet;
  live(quiet);
  const uint64_t lifeNs = live(quiet);
  std::mt19937 random(11);
  uint64_t cleanly = 0;
  for (int round = 0; round < 30; ++round) {
    // One is killed, or several are, one after the other.
    for (auto kills = 1 + random() % 3; kills > 0; --kills) {
      const pid_t child = ::fork();
      if (child == 0) {
        Events events;
        auto engine = openPrimary(scratch / "log");
        auto capture = startCapture(*engine, path, events);
        Database(path).run("INSERT INTO t(v) VALUES (2)");
        ::sleep(60);
        ::_exit(1);
      }
      std::this_thread::sleep_for(std::chrono::nanoseconds(random() % lifeNs));
      ::kill(child, SIGKILL);
      int status = 0;
      REQUIRE(::waitpid(child, &status, 0) == child);
      CHECK(WIFSIGNALED(status));
      auto sidecar = Sidecar::open(path);
      REQUIRE(sidecar);
      cleanly += sidecar.value()->state().closedCleanly;
    }
    Events events;
    live(events);
    CHECK(events.count("sqlite-snapshot") == 0);
  }
  CHECK(cleanly > 3);  // killed before they had come far
  auto engine = openPrimary(scratch / "log");
  CHECK(rebuild(*engine).snapshots == 1);  // of the new file's one page
  checkSame(*engine, path);
}

TEST_CASE("in wait mode nothing is visible before the rule holds") {
  setUpSqlite();
  Scratch scratch;
  Events events;
  const std::string path = scratch / "db";
  auto primary = openPrimary(scratch / "a");
  CaptureSettings settings = quick();
  settings.wait = true;
  auto capture = startCapture(*primary, path, events, settings);
  Database writer(path);
  writer.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
  auto& pump = primary->pump();
  pump.post([&pump] {
    CommitRule rule;
    rule.level = CommitLevel::received;
    pump.setCommitRule(rule);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  std::atomic<bool> returned{false};
  std::thread thread([&] {
    writer.run("INSERT INTO t(v) VALUES (1)");
    returned.store(true);
  });
  Database reader(path);
  for (int i = 0; i < 20; ++i) {
    CHECK(reader.ask("SELECT count(*) FROM t") == "0");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK_FALSE(returned.load());
  auto standby = openEngine(scratch / "b", "b");
  REQUIRE(standby->follow(ConnectTarget{{"127.0.0.1", primary->listenPort()}, "", "", 0, ""}));
  thread.join();
  CHECK(reader.ask("SELECT count(*) FROM t") == "1");
  standby.reset();

  // With a time limit the commit returns, and an event says so.
  REQUIRE(capture->stop());
  settings.commitTimeoutMs = 30;
  capture = startCapture(*primary, path, events, settings);
  Database(path).run("INSERT INTO t(v) VALUES (2)");
  CHECK(events.count("sqlite-commit-timeout") == 1);
  REQUIRE(capture->stop(WalHook::Mode::refuse));
  CHECK(Database(path).attempt("INSERT INTO t(v) VALUES (3)") == SQLITE_READONLY);
}

TEST_CASE("a primary killed at any moment goes on where it was, without a snapshot") {
  setUpSqlite();
  Scratch scratch;
  const std::string path = scratch / "db";
  std::mt19937 random(7);
  uint64_t acknowledged = 0;
  uint64_t first = 1;  // of this life's rows
  constexpr int kKills = 40;
  for (int life = 0; life <= kKills; ++life) {
    const auto seed = static_cast<uint32_t>(random());
    const bool wait = random() % 2 == 0;
    int pipe[2];
    REQUIRE(::pipe(pipe) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      Events events;
      auto engine = openPrimary(scratch / "log");
      CaptureSettings settings = quick();
      settings.wait = wait;
      auto capture = startCapture(*engine, path, events, settings);
      if (::write(pipe[1], "", 1) != 1) ::_exit(1);
      Database database(path);
      database.run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)");
      database.run("CREATE TABLE IF NOT EXISTS acks(n INTEGER)");
      std::mt19937 own(seed);
      std::thread other([&] {
        Database second(path);
        std::mt19937 its(seed + 1);
        for (;;) step(second, its);
      });
      for (uint64_t n = first;; ++n) {
        database.run("INSERT INTO acks VALUES (" + std::to_string(n) + ")");
        if (::write(pipe[1], &n, sizeof n) != sizeof n) ::_exit(1);
        step(database, own);
      }
    }
    ::close(pipe[1]);
    char byte = 0;
    REQUIRE(::read(pipe[0], &byte, 1) == 1);
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 150));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    for (uint64_t n = 0; ::read(pipe[0], &n, sizeof n) == sizeof n;) acknowledged = std::max(acknowledged, n);
    ::close(pipe[0]);
    first = std::max(first, acknowledged + 1) + 1;  // the row that was under way may be there
    if (life % 5 != 0) continue;
    Events events;
    auto engine = openPrimary(scratch / "log");
    auto capture = startCapture(*engine, path, events);
    REQUIRE(capture->stop());
    CHECK(events.count("sqlite-snapshot") == 0);
    checkSame(*engine, path);
    if (acknowledged > 0) CHECK(std::stoull(Database(path).ask("SELECT max(n) FROM acks")) >= acknowledged);
    CHECK(rebuild(*engine).snapshots == 1);
  }
  CHECK(acknowledged > 0);
}

}  // namespace walship::test

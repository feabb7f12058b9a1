// The tools that work on files nobody has open: check and restore.
#include <filesystem>

#include "databases/sqlite/check.h"
#include "databases/sqlite/restore.h"
#include "test/databases/sqlite_lab.h"

namespace walship::test {
namespace {

namespace fs = std::filesystem;

const ReadProgress kQuiet = [](uint64_t, uint64_t) {};

std::unique_ptr<Capture> startCapture(Engine& engine, const std::string& path, uint64_t checkpointBytes = 200'000) {
  CaptureSettings settings;
  settings.checkpointMs = 20;
  settings.checkpointBytes = checkpointBytes;
  auto capture = Capture::start(engine, path, settings, [](const EngineEvent&) {});
  if (!capture) FAIL(capture.error().code << ": " << capture.error().message);
  return capture.take();
}

DatabaseComparison compare(const std::string& database, const std::string& log) {
  auto compared = compareSqlite(database, log, kQuiet);
  if (!compared) FAIL(compared.error().message);
  return compared.value();
}

// As a kill would leave them.
void copyFiles(const std::string& path, const std::string& to) {
  for (const char* suffix : {"", "-wal"}) fs::copy_file(path + suffix, to + suffix);
}

// The log goes on being written, and trimmed: its mark tells whether it was while the files were copied.
void copyLog(const fs::path& log, const fs::path& to) {
  for (;;) {
    const auto mark = contentOf(log / "mark");
    std::error_code error;
    fs::remove_all(to);
    fs::copy(log, to, error);
    if (!error && contentOf(to / "mark") == mark && contentOf(log / "mark") == mark) return;
  }
}

void awaitFlushed(Engine& engine, Capture& capture) {
  auto lsn = capture.captureNow();
  REQUIRE(lsn);
  while (engine.store().flushedLsn() < lsn.value()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// The last transaction in the log, and whether the WAL that it names is the one there is.
bool plannedInVain(Engine& engine, const std::string& path) {
  std::optional<PageRecordHeader> last;
  RecordReader reader(engine, engine.log().firstLsn());
  for (;;) {
    auto record = reader.next(engine.store().flushedLsn());
    REQUIRE(record);
    if (!record.value()) break;
    last = record.value()->view.header();
  }
  const auto wal = contentOf(path + "-wal");
  WalFileHeader header;
  REQUIRE(wal.size() >= kWalHeaderBytes);
  REQUIRE(decodeWalFileHeader(std::as_bytes(std::span(wal)).first(kWalHeaderBytes), header));
  return last && last->noChange() && last->place.salts != header.salts;
}

}  // namespace

TEST_CASE("sqlite check: a killed primary's commits behind its log are counted, also when a generation was planned in vain") {
  setUpSqlite();
  for (const bool planned : {false, true}) {
    CAPTURE(planned);
    Scratch scratch;
    const std::string path = scratch / "db";
    auto engine = openPrimary(scratch / "log");
    auto capture = startCapture(*engine, path, planned ? 200'000 : 16u << 20);
    Database writer(path);
    Database reader(path);
    writer.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
    bool there = !planned;
    for (int tries = 0; tries < 100 && !there; ++tries) {
      // A reader at the very end of the WAL: everything can be checkpointed, and the WAL not be begun anew.
      writer.run("INSERT INTO t(v) VALUES (randomblob(300000))");
      reader.run("BEGIN; SELECT count(*) FROM t");
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      awaitFlushed(*engine, *capture);
      there = plannedInVain(*engine, path);
      if (!there) reader.run("COMMIT");
    }
    REQUIRE(there);
    awaitFlushed(*engine, *capture);
    copyLog(scratch / "log", scratch / "log-killed");
    for (int row = 0; row < 5; ++row) writer.run("INSERT INTO t(v) VALUES (randomblob(9000))");
    copyFiles(path, scratch / "killed");
    const DatabaseComparison found = compare(scratch / "killed", scratch / "log-killed");
    CHECK(found.uncaptured == 5);
    CHECK(found.differentCount == 0);
    reader.close();
    writer.close();
    REQUIRE(capture->stop());
  }
}

TEST_CASE("sqlite check: names the pages that are not what the log says") {
  setUpSqlite();
  Scratch scratch;
  const std::string path = scratch / "db";
  {
    auto engine = openPrimary(scratch / "log");
    auto capture = startCapture(*engine, path);
    {
      Database writer(path);
      writer.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
      for (int row = 0; row < 50; ++row) writer.run("INSERT INTO t(v) VALUES (randomblob(9000))");
    }
    REQUIRE(capture->snapshotNow());
    REQUIRE(capture->stop());
    CHECK(compareSqlite(path, scratch / "log", kQuiet).error().is("WALSHIP_ERR_LOG_LOCKED"));
  }
  const DatabaseComparison good = compare(path, scratch / "log");
  CHECK(good.differentCount == 0);
  CHECK(good.compared == good.databasePages);
  {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    for (const int page : {7, 31}) {
      file.seekp((page - 1) * 4096 + 2000);
      file.write("damage", 6);
    }
  }
  const DatabaseComparison bad = compare(path, scratch / "log");
  CHECK(bad.differentCount == 2);
  CHECK(bad.different == std::vector<uint32_t>{7, 31});
}

TEST_CASE("sqlite restore: the database as it was at any of its transactions, with copies in the log or without") {
  setUpSqlite();
  for (const bool copies : {false, true}) {
    CAPTURE(copies);
    Scratch scratch;
    const std::string path = scratch / "db";
    struct State {
      uint64_t lsn;
      std::string content;
    };
    std::vector<State> states;
    const std::string content = "SELECT count(*) || ' ' || total(length(v)) || ' ' || group_concat(hex(substr(v, 1, 4))) FROM t";
    {
      auto engine = openPrimary(scratch / "log");
      auto capture = startCapture(*engine, path);
      Database writer(path);
      writer.run("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)");
      for (int step = 0; step < 40; ++step) {
        writer.run("INSERT INTO t(v) VALUES (randomblob(9000)), (randomblob(20))");
        if (step % 9 == 8) writer.run("DELETE FROM t WHERE id % 3 = 0");
        if (step % 16 == 15) writer.run("VACUUM");
        if (copies && step % 7 == 6) REQUIRE(capture->snapshotNow());
        auto lsn = capture->captureNow();
        REQUIRE(lsn);
        states.push_back({lsn.value(), writer.ask(content)});
      }
      writer.close();
      REQUIRE(capture->stop());
    }
    int number = 0;
    for (const State& state : states) {
      const std::string file = scratch / ("restored" + std::to_string(number++));
      auto restored = restoreSqlite(scratch / "log", file, {state.lsn, UINT64_MAX}, kQuiet);
      if (!restored) FAIL(restored.error().message);
      CHECK(restored.value().reached.endLsn <= state.lsn);
      Database database(file);
      CHECK(database.ask("PRAGMA integrity_check") == "ok");
      CHECK(database.ask(content) == state.content);
    }
    CHECK(restoreSqlite(scratch / "log", scratch / "restored0", {}, kQuiet).error().is("WALSHIP_ERR_OUTPUT"));
    CHECK(restoreSqlite(scratch / "log", scratch / "none", {1, UINT64_MAX}, kQuiet).error().is("WALSHIP_ERR_LOG_RANGE"));
    CHECK_FALSE(fs::exists(scratch / "none"));
    CHECK_FALSE(fs::exists(scratch / "none-restoring"));
  }
}

}  // namespace walship::test

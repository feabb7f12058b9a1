#include <sys/wait.h>

#include "sqlite_shipping.h"
#include "test/sanitized.h"

using namespace walship;
using namespace walship::test;

namespace {

std::unique_ptr<Applier> openApplier(Engine& engine, const std::string& path, ApplierSettings settings = {}) {
  setUpSqlite();
  auto applier = Applier::open(engine, path, settings);
  if (!applier) FAIL(applier.error().message);
  applier.value()->start();
  return applier.take();
}

void checkApplied(Applier& applier, uint64_t lsn) {
  const bool there = within(60'000, [&] { return applier.appliedLsn() >= lsn; });
  const auto status = applier.status();
  INFO((status.problem ? status.problem->message : std::string("no problem")));
  REQUIRE(there);
}

// Reads until told to stop; every snapshot must be a whole one.
class Readers {
 public:
  Readers(const std::string& path, int count) {
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([this, path, i] {
        const Connection connection = connectReader(path);
        std::mt19937 random(static_cast<uint32_t>(i));
        int64_t last = -1;
        while (!stopping_.load()) {
          if (ask(connection.get(), "SELECT count(*) FROM sqlite_master WHERE name='blobs'") != "1") continue;
          sqlite3_exec(connection.get(), "BEGIN", nullptr, nullptr, nullptr);
          const std::string version = ask(connection.get(), kVersion);
          // A snapshot held for a while must not move.
          if (random() % 8 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 20));
          const std::string sum = ask(connection.get(), kSumOfBalances);
          const std::string again = ask(connection.get(), kVersion);
          const std::string whole = random() % 32 == 0 ? ask(connection.get(), "PRAGMA integrity_check") : "ok";
          sqlite3_exec(connection.get(), "COMMIT", nullptr, nullptr, nullptr);
          const int64_t number = std::strtoll(version.c_str(), nullptr, 10);
          if (sum != "0" || again != version || whole != "ok" || number < last) {
            const std::lock_guard lock(mutex_);
            wrong_ = "version " + version + " then " + again + ", last " + std::to_string(last) + ", sum " + sum + ", " + whole;
            return;
          }
          last = number;
          ++reads_;
        }
      });
    }
  }
  ~Readers() { stop(); }
  void stop() {
    stopping_.store(true);
    for (auto& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  std::string wrong() {
    const std::lock_guard lock(mutex_);
    return wrong_;
  }
  uint64_t reads() const { return reads_.load(); }

 private:
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> reads_{0};
  std::mutex mutex_;
  std::string wrong_;
  std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("sqlite applier: the standby's file is the primary's, for every page size, with readers all the time") {
  for (uint32_t pageBytes = 512; pageBytes <= 65536; pageBytes *= 2) {
    INFO(pageBytes);
    const Directory directory;
    const std::string primaryPath = directory / "primary.db";
    const std::string standbyPath = directory / "standby.db";
    auto engine = openEngine(directory, "a");
    REQUIRE(engine->promote(0));
    {
      Shipper shipper(*engine, primaryPath, pageBytes);
      makeSchema(shipper.connection());
      shipper.snapshot();
      ApplierSettings settings;
      settings.checkpointMs = 20;
      settings.checkpointBytes = 2u << 20;
      auto applier = openApplier(*engine, standbyPath, settings);
      {
        Readers readers(standbyPath, 2);
        std::mt19937 random(pageBytes);
        for (int i = 0; i < 150; ++i) {
          randomTransaction(shipper.connection(), random);
          shipper.ship();
          if (random() % 40 == 0) ask(shipper.connection(), "PRAGMA wal_checkpoint(TRUNCATE)");
        }
        checkApplied(*applier, shipper.endLsn());
        CHECK(within(10'000, [&] { return readers.reads() > 10; }));
        readers.stop();
        CHECK(readers.wrong() == "");
      }
      CHECK(applier->drain(1000));
      CHECK(applier->status().transactions >= 150);
      applier->stop();
    }
    checkIdentical(primaryPath, standbyPath);
  }
}

TEST_CASE("sqlite applier: killed at any moment, the database is whole and goes on from where it was") {
  setUpSqlite();
  const Directory directory;
  const std::string primaryPath = directory / "primary.db";
  const std::string standbyPath = directory / "standby.db";
  uint64_t end = 0;
  {
    auto engine = openEngine(directory, "a");
    REQUIRE(engine->promote(0));
    Shipper shipper(*engine, primaryPath);
    makeSchema(shipper.connection());
    shipper.snapshot();
    std::mt19937 random(7);
    for (int i = 0; i < 1'500; ++i) {
      randomTransaction(shipper.connection(), random);
      end = shipper.ship();
    }
    REQUIRE(within(10'000, [&] { return engine->store().flushedLsn() >= end; }));
    REQUIRE(engine->close());
  }
  std::mt19937 random(11);
  int kills = 0;
  int64_t version = -1;
  for (int round = 0; round < 300; round += kEveryNthCase) {
    // With the sidecar, everything is applied again in one commit; without it, one by one from the snapshot on.
    if (random() % 2 == 0) fs::remove(standbyPath + "-walship");
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      auto engine = Engine::open(engineSettings(directory, "a"), [] {});
      if (!engine) ::_exit(1);
      ApplierSettings settings;
      settings.batchBytes = 1;
      settings.checkpointMs = 1;
      settings.checkpointBytes = 256u << 10;
      auto applier = Applier::open(*engine.value(), standbyPath, settings);
      if (!applier) ::_exit(2);
      applier.value()->start();
      if (::write(ready[1], "", 1) != 1) ::_exit(3);
      while (applier.value()->appliedLsn() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      applier.value()->stop();
      ::_exit(0);
    }
    ::close(ready[1]);
    char byte = 0;
    CHECK(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % (random() % 8 == 0 ? 40'000 : 3'000)));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFEXITED(status)) {
      REQUIRE(WEXITSTATUS(status) == 0);
      break;
    }
    ++kills;
    if (!fs::exists(standbyPath)) continue;
    const Connection connection = connectReader(standbyPath);
    CHECK(ask(connection.get(), "PRAGMA integrity_check") == "ok");
    if (ask(connection.get(), "SELECT count(*) FROM sqlite_master WHERE name='blobs'") != "1") continue;
    CHECK(ask(connection.get(), kSumOfBalances) == "0");
    version = std::max<int64_t>(version, std::strtoll(ask(connection.get(), kVersion).c_str(), nullptr, 10));
  }
  MESSAGE("kills: ", kills, ", at most at version ", version);
  {
    auto engine = openEngine(directory, "a");
    auto applier = openApplier(*engine, standbyPath);
    checkApplied(*applier, end);
    applier->stop();
  }
  checkIdentical(primaryPath, standbyPath);
}

TEST_CASE("sqlite applier: the WAL stays small under steady load with large pages; the log is held for what is not durable") {
  const Directory directory;
  auto engine = openEngine(directory, "a");
  REQUIRE(engine->promote(0));
  auto standby = openEngine(directory, "b");
  Shipper shipper(*engine, directory / "a.db", 65536);
  makeSchema(shipper.connection());
  shipper.snapshot();
  REQUIRE(standby->follow(ConnectTarget{{"127.0.0.1", engine->listenPort()}, "", "", 0, ""}));
  ApplierSettings settings;
  settings.checkpointBytes = 2u << 20;
  settings.checkpointMs = 50;
  auto applier = openApplier(*standby, directory / "b.db", settings);
  const auto held = [&]() -> std::optional<uint64_t> {
    for (const auto& reader : standby->readers().list()) {
      if (reader.name == "b") return reader.lsn;
    }
    return std::nullopt;
  };
  uint64_t end = 0;
  for (int i = 0; i < 300; ++i) {
    run(shipper.connection(),
        "INSERT OR REPLACE INTO blobs(id, data) VALUES(" + std::to_string(i % 12) + ", randomblob(400000))");
    end = shipper.ship();
    const auto durable = applier->sidecar().state().appliedLsn;
    if (const auto lsn = held()) CHECK(*lsn <= std::max(durable, applier->sidecar().state().appliedLsn));
  }
  checkApplied(*applier, end);
  CHECK(fs::file_size(directory / "b.db-wal") < (8u << 20));
  CHECK(within(10'000, [&] { return held() == end; }));
  applier->stop();
}

// A database whose commits are put into a log by hand, and what the tests of the standby's side compare it with.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "base/checksum.h"
#include "base/clock.h"
#include "databases/sqlite/applier.h"
#include "sqlite_setup.h"

namespace walship::test {

namespace fs = std::filesystem;

struct Directory {
  fs::path path;
  Directory() {
    static std::atomic<int> number{0};
    const fs::path base = fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path();
    path = base / ("walship-sqlite-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
    fs::create_directories(path);
  }
  ~Directory() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

inline EngineSettings engineSettings(const Directory& directory, const std::string& node) {
  EngineSettings settings;
  settings.log.dir = directory / node;
  settings.log.geometry = {kPageBytesMin, 16, keyOf("cluster")};
  settings.log.zeroFill = false;
  settings.arenaSlots = 128;
  settings.nodeId = node;
  settings.cluster = "cluster";
  settings.secret = "a secret of the cluster";
  settings.listen = {{"127.0.0.1", 0}};
  settings.session.grantPages = 8;
  settings.session.linkTimeoutMs = 5000;
  settings.reconnectMsMin = 10;
  settings.appliedByHand = true;
  return settings;
}

inline std::unique_ptr<Engine> openEngine(const Directory& directory, const std::string& node) {
  auto engine = Engine::open(engineSettings(directory, node), [] {});
  if (!engine) FAIL(engine.error().message);
  return engine.take();
}

template <class Condition>
bool within(uint32_t milliseconds, Condition&& condition) {
  const uint64_t deadline = monotonicNs() + uint64_t{milliseconds} * 1'000'000;
  while (!condition()) {
    if (monotonicNs() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

inline void run(sqlite3* connection, const std::string& sql) {
  char* message = nullptr;
  const int outcome = sqlite3_exec(connection, sql.c_str(), nullptr, nullptr, &message);
  INFO(sql);
  INFO((message != nullptr ? message : "no message"));
  REQUIRE(outcome == SQLITE_OK);
}

// The first column of the first row; "error: …" if it cannot be had.
inline std::string ask(sqlite3* connection, const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  std::string answer;
  if (sqlite3_prepare_v2(connection, sql.c_str(), -1, &statement, nullptr) == SQLITE_OK) {
    const int outcome = sqlite3_step(statement);
    if (outcome == SQLITE_ROW) {
      const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement, 0));
      answer = text != nullptr ? text : "null";
    } else if (outcome != SQLITE_DONE) {
      answer = std::string("error: ") + sqlite3_errmsg(connection);
    }
  } else {
    answer = std::string("error: ") + sqlite3_errmsg(connection);
  }
  sqlite3_finalize(statement);
  return answer;
}

inline Connection connect(const std::string& path) {
  auto connection = openConnection(path);
  if (!connection) FAIL(connection.error().message);
  return connection.take();
}

inline Connection connectReader(const std::string& path) {
  sqlite3* opened = nullptr;
  sqlite3_open_v2(path.c_str(), &opened, SQLITE_OPEN_READONLY, nullptr);
  sqlite3_busy_timeout(opened, 5000);
  return Connection(opened);
}

inline std::vector<char> contentOf(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Both files, with their WALs folded in, byte for byte.
inline void checkIdentical(const std::string& one, const std::string& other) {
  for (const std::string& path : {one, other}) {
    const Connection connection = connect(path);
    CHECK(ask(connection.get(), "PRAGMA wal_checkpoint(TRUNCATE)") == "0");
    CHECK(ask(connection.get(), "PRAGMA integrity_check") == "ok");
  }
  const auto bytes = contentOf(one);
  CHECK(bytes.size() > 0);
  CHECK((bytes == contentOf(other)));
}

class Shipper {
 public:
  // Ships a snapshot of the database first.
  Shipper(Engine& engine, const std::string& path, uint32_t pageBytes = 4096) : engine_(engine) {
    setUpSqlite();
    sqlite3* opened = nullptr;
    REQUIRE(sqlite3_open(path.c_str(), &opened) == SQLITE_OK);
    connection_.reset(opened);
    run(opened, "PRAGMA page_size=" + std::to_string(pageBytes));
    run(opened, "PRAGMA journal_mode=WAL");
    run(opened, "PRAGMA wal_autocheckpoint=0");
    own_ = connect(path);
    auto index = WalIndex::open(own_.get());
    REQUIRE(index);
    index_.emplace(index.take());
    auto header = index_->readHeader();
    REQUIRE(header);
    place_ = {header.value().salts, header.value().frames, header.value().frameSum};
  }

  sqlite3* connection() { return connection_.get(); }
  WalIndex& index() { return *index_; }
  uint64_t endLsn() const { return endLsn_; }

  void snapshot() {
    run(own_.get(), "BEGIN");
    const uint32_t pages = static_cast<uint32_t>(std::stoul(ask(own_.get(), "PRAGMA page_count")));
    const uint32_t pageBytes = static_cast<uint32_t>(std::stoul(ask(own_.get(), "PRAGMA page_size")));
    auto header = index_->readHeader();
    REQUIRE(header);
    place_ = {header.value().salts, header.value().frames, header.value().frameSum};
    records_.begin(PageRecordType::snapshot, pageBytes);
    std::vector<std::byte> image(pageBytes);
    for (uint32_t page = 1; page <= pages; ++page) {
      REQUIRE(index_->readPage(page, header.value(), image));
      records_.add(page, image);
      if (records_.full() && page < pages) append(records_.finish(false, pages, place_, wallUs()));
    }
    append(records_.finish(true, pages, place_, wallUs()));
    run(own_.get(), "COMMIT");
  }

  // Every commit since the last time.
  uint64_t ship() {
    auto header = index_->readHeader();
    REQUIRE(header);
    if (header.value().salts != place_.salts) place_ = {header.value().salts, 0, {}};
    const uint32_t pageBytes = header.value().pageBytes();
    std::vector<std::byte> frame(kWalFrameHeaderBytes + pageBytes);
    bool begun = false;
    while (place_.frame < header.value().frames) {
      REQUIRE(index_->readFrames(place_.frame + 1, 1, pageBytes, frame));
      const WalFrameHeader found = decodeWalFrameHeader(frame);
      REQUIRE(found.salts == place_.salts);
      ++place_.frame;
      place_.sum = found.sum;
      if (!begun) records_.begin(PageRecordType::transaction, pageBytes);
      begun = true;
      if (records_.full()) append(records_.finish(false, 0, place_, wallUs()));
      records_.add(found.page, Bytes(frame).subspan(kWalFrameHeaderBytes));
      if (found.dbPages == 0) continue;
      append(records_.finish(true, found.dbPages, place_, wallUs()));
      begun = false;
    }
    return endLsn_;
  }

  void append(Bytes bytes) {
    while (true) {
      auto end = engine_.append(bytes);
      if (end) {
        endLsn_ = end.value();
        return;
      }
      REQUIRE(end.error().is("WALSHIP_ERR_BACKPRESSURE"));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

 private:
  Engine& engine_;
  Connection connection_;  // the application's
  Connection own_;
  std::optional<WalIndex> index_;
  WalPlace place_;
  PageRecordWriter records_;
  uint64_t endLsn_ = 0;
};

// A schema whose consistency shows: the sum of all balances is always 0, `versions` counts the transactions.
inline void makeSchema(sqlite3* connection) {
  run(connection,
      "CREATE TABLE versions(version INTEGER); INSERT INTO versions VALUES(0);"
      "CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER, note TEXT);"
      "CREATE INDEX notes ON accounts(note); CREATE TABLE blobs(id INTEGER PRIMARY KEY, data BLOB);"
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) INSERT INTO accounts SELECT i, 0, 'n'||i FROM n;");
}

inline void randomTransaction(sqlite3* connection, std::mt19937& random) {
  const auto number = [&](uint32_t below) { return std::to_string(random() % below); };
  std::string sql = "BEGIN; UPDATE versions SET version = version + 1;";
  for (auto i = random() % 6; i > 0; --i) {
    const std::string amount = number(1000);
    sql += "UPDATE accounts SET balance = balance - " + amount + ", note = 'x" + number(100000) + "' WHERE id = " +
           std::to_string(1 + random() % 200) + ";";
    // In one statement, so that the sum holds even when both are the same account.
    sql += "UPDATE accounts SET balance = balance + " + amount + " WHERE id = (SELECT id FROM accounts WHERE id > " +
           number(199) + " ORDER BY id LIMIT 1);";
  }
  switch (random() % 8) {
    case 0: sql += "INSERT INTO blobs(data) VALUES(randomblob(" + number(200'000) + "));"; break;
    case 1: sql += "DELETE FROM blobs WHERE id % 3 = " + number(3) + ";"; break;
    case 2: sql += "INSERT INTO blobs(data) VALUES(zeroblob(" + number(3000) + "));"; break;
    default: break;
  }
  run(connection, sql + "COMMIT");
  if (random() % 64 == 0) run(connection, "VACUUM");
}

constexpr const char* kSumOfBalances = "SELECT sum(balance) FROM accounts";
constexpr const char* kVersion = "SELECT version FROM versions";

}  // namespace walship::test

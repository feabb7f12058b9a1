// A database, its connections and the engine beside it, for the tests of the SQLite side.
#pragma once

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "base/checksum.h"
#include "databases/sqlite/capture.h"
#include "databases/sqlite/reader.h"
#include "sqlite_setup.h"

namespace walship::test {

struct Scratch {
  std::filesystem::path path;
  Scratch() {
    static std::atomic<int> number{0};
    const std::filesystem::path base = std::filesystem::exists("/dev/shm") ? "/dev/shm" : "/tmp";
    path = base / ("walship-sqlite-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
    std::filesystem::create_directories(path);
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

inline EngineSettings settingsOf(const std::string& dir, const std::string& node) {
  EngineSettings settings;
  settings.log.dir = dir;
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
  return settings;
}

inline std::unique_ptr<Engine> openEngine(const std::string& dir, const std::string& node = "a") {
  auto engine = Engine::open(settingsOf(dir, node), [] {});
  if (!engine) FAIL(engine.error().message);
  return engine.take();
}

inline std::unique_ptr<Engine> openPrimary(const std::string& dir) {
  auto engine = openEngine(dir);
  REQUIRE(engine->promote(engine->store().epoch() + 1));
  return engine;
}

// A connection of the application's, through the default VFS.
class Database {
 public:
  explicit Database(const std::string& path) {
    REQUIRE(sqlite3_open(path.c_str(), &handle_) == SQLITE_OK);
    sqlite3_busy_timeout(handle_, 10'000);
    run("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0");
  }
  ~Database() { close(); }
  void close() { sqlite3_close(std::exchange(handle_, nullptr)); }
  sqlite3* handle() { return handle_; }
  int attempt(const std::string& sql) { return sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr); }
  void run(const std::string& sql) {
    const int done = attempt(sql);
    INFO(sql, ": ", std::string(sqlite3_errmsg(handle_)));
    REQUIRE(done == SQLITE_OK);
  }
  std::string ask(const std::string& sql) {
    std::string answer;
    const int done = sqlite3_exec(
        handle_, sql.c_str(),
        [](void* into, int, char** values, char**) {
          *static_cast<std::string*>(into) = values[0] == nullptr ? "" : values[0];
          return 0;
        },
        &answer, nullptr);
    INFO(sql, ": ", std::string(sqlite3_errmsg(handle_)));
    REQUIRE(done == SQLITE_OK);
    return answer;
  }

 private:
  sqlite3* handle_ = nullptr;
};

inline std::vector<char> contentOf(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The database file as the transactions of the log make it. Checks that every page of a copy is what they have left.
struct Rebuilt {
  std::vector<char> file;
  uint64_t transactions = 0;
  uint64_t snapshots = 0;
  uint64_t copies = 0;  // that came to their end
  uint64_t copiedBehindChanges = 0;  // records of copies that have transactions between them and the one before
};

inline Rebuilt rebuild(Engine& engine) {
  Rebuilt rebuilt;
  RecordReader reader(engine, engine.log().firstLsn());
  std::vector<std::pair<uint32_t, std::vector<char>>> pages;
  bool changed = false;
  for (;;) {
    auto record = reader.next(engine.store().receivedLsn());
    if (!record) FAIL(record.error().message);
    if (!record.value()) break;
    const PageRecord& view = record.value()->view;
    if (view.header().copy()) {
      bool same = view.header().databasePages * size_t{view.header().pageBytes} == rebuilt.file.size();
      for (uint32_t i = 0; same && i < view.header().pageCount; ++i) {
        const auto* image = reinterpret_cast<const char*>(view.image(i).data());
        same = std::equal(image, image + view.header().pageBytes,
                          rebuilt.file.begin() + static_cast<ptrdiff_t>((view.page(i) - 1) * size_t{view.header().pageBytes}));
      }
      CHECK(same);
      if (!view.header().first() && changed) ++rebuilt.copiedBehindChanges;
      if (view.header().last()) ++rebuilt.copies;
      changed = false;
      continue;
    }
    if (view.header().first()) pages.clear();
    for (uint32_t i = 0; i < view.header().pageCount; ++i) {
      const auto* image = reinterpret_cast<const char*>(view.image(i).data());
      pages.emplace_back(view.page(i), std::vector<char>(image, image + view.header().pageBytes));
    }
    if (!view.header().last()) continue;
    const size_t pageBytes = view.header().pageBytes;
    const bool snapshot = view.header().type == PageRecordType::snapshot;
    if (snapshot) rebuilt.file.clear();
    rebuilt.file.resize(view.header().databasePages * pageBytes);
    for (const auto& [page, image] : pages) {
      if (page > view.header().databasePages) continue;
      std::copy(image.begin(), image.end(), rebuilt.file.begin() + static_cast<ptrdiff_t>((page - 1) * pageBytes));
    }
    pages.clear();
    changed = true;
    ++(snapshot ? rebuilt.snapshots : rebuilt.transactions);
  }
  return rebuilt;
}

// Everything out of the WAL and into the database file.
inline void foldIn(const std::string& path) {
  Database database(path);
  REQUIRE(database.ask("PRAGMA wal_checkpoint(TRUNCATE)") == "0");
  REQUIRE(database.ask("PRAGMA integrity_check") == "ok");
}

}  // namespace walship::test

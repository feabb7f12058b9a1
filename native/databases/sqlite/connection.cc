#include "databases/sqlite/connection.h"

#include "databases/sqlite/vfs.h"

namespace walship {

namespace {
constexpr int kBusyMs = 5000;
}  // namespace

Result<Connection> openConnection(const std::string& path) {
  sqlite3* opened = nullptr;
  const int outcome = sqlite3_open_v2(path.c_str(), &opened,
                                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                                      baseVfsName());
  Connection connection(opened);
  const auto failed = [&](const char* what, int code) {
    return fileError("WALSHIP_ERR_SQLITE",
                     std::string(what) + ": " + (connection ? sqlite3_errmsg(connection.get()) : sqlite3_errstr(code)),
                     path);
  };
  if (outcome != SQLITE_OK) return failed("cannot open the database", outcome);
  sqlite3_busy_timeout(connection.get(), kBusyMs);
  for (const char* statement : {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", "PRAGMA wal_autocheckpoint=0"}) {
    const int done = sqlite3_exec(connection.get(), statement, nullptr, nullptr, nullptr);
    if (done != SQLITE_OK) return failed("cannot prepare the connection", done);
  }
  return connection;
}

}  // namespace walship

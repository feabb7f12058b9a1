#include "databases/sqlite/extension.h"

#include <atomic>
#include <mutex>

#include "databases/sqlite/vfs.h"

SQLITE_EXTENSION_INIT1

namespace {
std::mutex loading;
std::atomic<bool> loaded{false};
// WAL mode as it is now: sqlite3_database_file_object() and SQLITE_FCNTL_JOURNAL_POINTER.
constexpr int kVersionMin = 3'032'000;
}  // namespace

extern "C" int sqlite3_walship_init(sqlite3* /*database*/, char** message, const sqlite3_api_routines* routines) {
  const std::lock_guard lock(loading);
  const auto refuse = [&](const char* why) {
    if (message != nullptr) *message = routines->mprintf("%s", why);
    return SQLITE_ERROR;
  };
  if (loaded.load()) {
    return sqlite3_api == routines ? SQLITE_OK_LOAD_PERMANENTLY
                                   : refuse("walship serves another copy of SQLite in this process already");
  }
  if (routines->libversion_number() < kVersionMin) return refuse("walship needs SQLite 3.32 or newer");
  if (routines->xthreadsafe() == 0) return refuse("walship needs a SQLite built with SQLITE_THREADSAFE=1 or 2");
  SQLITE_EXTENSION_INIT2(routines)
  if (walship::registerVfs() != SQLITE_OK) return refuse("walship cannot register its VFS over the default one");
  loaded.store(true);
  return SQLITE_OK_LOAD_PERMANENTLY;
}

namespace walship {

Result<void> sqliteLoaded() {
  if (loaded.load()) return {};
  return makeError("WALSHIP_ERR_SQLITE_NOT_LOADED",
                   "SQLite has not loaded the walship extension; load the addon with loadExtension() first");
}

}  // namespace walship

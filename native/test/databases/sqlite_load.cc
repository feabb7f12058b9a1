// The only place that calls SQLite by its own names: it stands in for better-sqlite3.
#include <sqlite3.h>

#include "base/assert.h"

struct sqlite3_api_routines;
extern "C" int sqlite3_walship_init(sqlite3* database, char** message, const sqlite3_api_routines* routines);

namespace walship::test {

void loadWalship() {
  static bool loaded = false;
  if (loaded) return;
  const auto entry = [](sqlite3* database, char** message, const sqlite3_api_routines* routines) {
    const int outcome = sqlite3_walship_init(database, message, routines);
    return outcome == SQLITE_OK_LOAD_PERMANENTLY ? SQLITE_OK : outcome;
  };
  int (*function)(sqlite3*, char**, const sqlite3_api_routines*) = entry;
  WALSHIP_ASSERT(sqlite3_auto_extension(reinterpret_cast<void (*)()>(function)) == SQLITE_OK);
  sqlite3* database = nullptr;
  WALSHIP_ASSERT(sqlite3_open(":memory:", &database) == SQLITE_OK);
  sqlite3_close(database);
  sqlite3_reset_auto_extension();
  loaded = true;
}

}  // namespace walship::test

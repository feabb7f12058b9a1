// The amalgamation that the tests link lends itself to the code under test, as better-sqlite3 does by loadExtension().
#include "sqlite_setup.h"

#include <sqlite3.h>

#include <cstdlib>
#include <mutex>

struct sqlite3_api_routines;
extern "C" int sqlite3_walship_init(sqlite3*, char**, const sqlite3_api_routines*);

namespace walship::test {

void setUpSqlite() {
  static std::once_flag once;
  std::call_once(once, [] {
    const auto entry = reinterpret_cast<void (*)()>(sqlite3_walship_init);
    sqlite3* database = nullptr;
    sqlite3_auto_extension(entry);
    if (sqlite3_open(":memory:", &database) != SQLITE_OK) std::abort();
    sqlite3_close(database);
    sqlite3_cancel_auto_extension(entry);
  });
}

}  // namespace walship::test

// The addon as a run-time extension of SQLite: whoever loads it (better-sqlite3) lends its own SQLite. Everything here
// calls SQLite through the routines it was lent, by the macros of sqlite3ext.h; nothing links to a SQLite.
#pragma once

#include "base/result.h"
#include "databases/sqlite/api.h"

namespace walship {

// WALSHIP_ERR_SQLITE_NOT_LOADED until sqlite3_walship_init() has been called.
Result<void> sqliteLoaded();

}  // namespace walship

// Refuses a second SQLite in the same process and one built without mutexes. Stays loaded for good.
extern "C" __attribute__((visibility("default"))) int sqlite3_walship_init(sqlite3* database, char** message,
                                                                           const sqlite3_api_routines* routines);

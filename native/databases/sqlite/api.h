// SQLite as the addon uses it: only through the routines that the host's own copy of SQLite hands to run-time
// extensions, so that files, locks and memory are always those of the one SQLite in the process.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#include <sqlite3ext.h>
#pragma GCC diagnostic pop

SQLITE_EXTENSION_INIT3

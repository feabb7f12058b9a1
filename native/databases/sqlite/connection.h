// A connection of walship's own to a database file.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "databases/sqlite/api.h"

namespace walship {

struct CloseConnection {
  void operator()(sqlite3* connection) const { sqlite3_close(connection); }
};
using Connection = std::unique_ptr<sqlite3, CloseConnection>;

// Makes an empty database in WAL mode if there is no file. The connection never checkpoints by itself, syncs as
// synchronous=NORMAL says, and waits a while for locks. WALSHIP_ERR_SQLITE.
Result<Connection> openConnection(const std::string& path);

}  // namespace walship

// The replication commands that a client may send to a physical walsender: parsed as PostgreSQL's own grammar does it.
// Pure.
#pragma once

#include <variant>

#include "base/result.h"
#include "databases/postgres/wire.h"

namespace walship::postgres {

struct IdentifySystem {};
struct Show {
  std::string name;
};
struct TimelineHistory {
  uint32_t timeline = 0;
};
struct StartReplication {
  std::optional<std::string> slot;
  uint64_t lsn = 0;
  uint32_t timeline = 0;  // 0: the newest
};
struct CreateSlot {
  std::string slot;
  bool temporary = false;
  bool reserve = false;
};
struct ReadSlot {
  std::string slot;
};
struct DropSlot {
  std::string slot;
};
// Answered by the server beside the node, in the client's own words.
struct BaseBackup {
  std::string text;
};
// SQL and the rest: what nobody but a server itself can answer.
struct ForServer {
  std::string word;
};
struct Nothing {};

using Command = std::variant<Nothing, IdentifySystem, Show, TimelineHistory, StartReplication, CreateSlot, ReadSlot,
                             DropSlot, BaseBackup, ForServer>;

// WALSHIP_ERR_POSTGRES_SYNTAX, with PostgreSQL's words.
Result<Command> parseCommand(std::string_view text);

}  // namespace walship::postgres

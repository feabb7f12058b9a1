#include "databases/postgres/answers.h"

#include "databases/postgres/wire.h"

namespace walship::postgres {

std::optional<uint64_t> lsnIn(const Row& row, size_t column) {
  if (row.size() <= column || !row[column]) return std::nullopt;
  return parseLsn(*row[column]);
}

Error unexpected(const std::string& command) {
  return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "the server's answer to " + command + " cannot be understood");
}

std::string quoted(const std::string& name) {
  std::string out = "\"";
  for (const char letter : name) {
    if (letter == '"') out.push_back('"');
    out.push_back(letter);
  }
  return out + "\"";
}

}  // namespace walship::postgres

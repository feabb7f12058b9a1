// Reading what a server answers to the commands of the replication protocol.
#pragma once

#include <charconv>
#include <optional>
#include <string>

#include "databases/postgres/connection.h"

namespace walship::postgres {

template <class T>
std::optional<T> numberIn(const std::optional<std::string>& text) {
  T value{};
  if (!text) return std::nullopt;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr != text->data() + text->size()) return std::nullopt;
  return value;
}

std::optional<uint64_t> lsnIn(const Row& row, size_t column);
Error unexpected(const std::string& command);  // its answer cannot be understood
// A name in a command.
std::string quoted(const std::string& name);

}  // namespace walship::postgres

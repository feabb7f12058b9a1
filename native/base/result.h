// Errors as values: the addon is built without exceptions. An Error carries a stable code (WALSHIP_ERR_…), a sentence
// that says what happened, where, and what to do next, and, where it has them, the file and the byte offset.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

#include "base/assert.h"

namespace walship {

struct Error {
  const char* code = "WALSHIP_ERR_INTERNAL";  // a string literal: stable, compared by content
  std::string message;
  std::string file;      // empty when no file is concerned
  int64_t offset = -1;   // byte offset in `file`, or -1
  int systemError = 0;   // errno, or 0

  bool is(const char* other) const { return std::strcmp(code, other) == 0; }
};

inline Error makeError(const char* code, std::string message) { return Error{code, std::move(message), {}, -1, 0}; }

inline Error fileError(const char* code, std::string message, std::string file, int64_t offset = -1) {
  return Error{code, std::move(message), std::move(file), offset, 0};
}

// An error of a system call: `what` says what was tried ("cannot open the segment file").
inline Error systemError(const char* code, const std::string& what, int number, std::string file = {},
                         int64_t offset = -1) {
  return Error{code, what + ": " + std::strerror(number), std::move(file), offset, number};
}

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() {
    WALSHIP_ASSERT(ok());
    return *std::get_if<0>(&state_);
  }
  const T& value() const {
    WALSHIP_ASSERT(ok());
    return *std::get_if<0>(&state_);
  }
  T take() { return std::move(value()); }
  const Error& error() const {
    WALSHIP_ASSERT(!ok());
    return *std::get_if<1>(&state_);
  }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)), failed_(true) {}

  bool ok() const { return !failed_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    WALSHIP_ASSERT(failed_);
    return error_;
  }

 private:
  Error error_;
  bool failed_ = false;
};

}  // namespace walship

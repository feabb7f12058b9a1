// Building and taking apart what PostgreSQL's protocol says: big-endian numbers, strings that end in a zero byte. The
// reader never reads outside of its bytes.
#pragma once

#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/wire.h"

namespace walship::postgres {

template <std::unsigned_integral T>
constexpr T swapped(T value) {
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  return value;
}

template <std::unsigned_integral T>
void putBig(Buffer& out, T value) {
  putValue(out, swapped(value));
}

inline void putText(Buffer& out, std::string_view text) { put(out, std::as_bytes(std::span(text))); }

// With its zero byte.
inline void putString(Buffer& out, std::string_view text) {
  putText(out, text);
  out.push_back(std::byte{0});
}

class BigReader {
 public:
  explicit BigReader(Bytes bytes) : bytes_(bytes) {}

  template <std::unsigned_integral T>
  bool take(T& value) {
    if (bytes_.size() < sizeof(T)) return false;
    value = swapped(loadAt<T>(bytes_, 0));
    bytes_ = bytes_.subspan(sizeof(T));
    return true;
  }
  // Up to its zero byte, which must be there.
  bool takeString(std::string& text) {
    const auto* begin = reinterpret_cast<const char*>(bytes_.data());
    const void* end = bytes_.empty() ? nullptr : std::memchr(begin, 0, bytes_.size());
    if (end == nullptr) return false;
    text.assign(begin, static_cast<const char*>(end));
    bytes_ = bytes_.subspan(text.size() + 1);
    return true;
  }
  Bytes rest() const { return bytes_; }
  bool done() const { return bytes_.empty(); }

 private:
  Bytes bytes_;
};

// "16/B374D848", as PostgreSQL writes LSNs.
std::string formatLsn(uint64_t lsn);
std::optional<uint64_t> parseLsn(std::string_view text);

}  // namespace walship::postgres

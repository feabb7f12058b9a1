// Building and taking apart control messages. The reader never reads outside of its bytes and never trusts a length.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace walship {

using Buffer = std::vector<std::byte>;

inline void put(Buffer& out, Bytes bytes) {
  const size_t at = out.size();
  out.resize(at + bytes.size());
  if (!bytes.empty()) std::memcpy(out.data() + at, bytes.data(), bytes.size());
}

template <class T>
void putValue(Buffer& out, const T& value) {
  put(out, bytesOf(value));
}

// At most 255 bytes; longer text is cut.
inline void putName(Buffer& out, std::string_view name) {
  const std::string_view kept = name.substr(0, 255);
  out.push_back(static_cast<std::byte>(kept.size()));
  put(out, std::as_bytes(std::span(kept)));
}

class WireReader {
 public:
  explicit WireReader(Bytes bytes) : bytes_(bytes) {}

  bool take(MutableBytes into) {
    if (bytes_.size() < into.size()) return false;
    std::copy_n(bytes_.begin(), into.size(), into.begin());
    bytes_ = bytes_.subspan(into.size());
    return true;
  }
  template <class T>
    requires std::is_arithmetic_v<T>
  bool take(T& value) {
    return take(std::as_writable_bytes(std::span<T, 1>(&value, 1)));
  }
  bool takeName(std::string& name, size_t most = 255) {
    uint8_t length = 0;
    if (!take(length) || length > most || length > bytes_.size()) return false;
    name.assign(reinterpret_cast<const char*>(bytes_.data()), length);
    bytes_ = bytes_.subspan(length);
    return true;
  }
  bool done() const { return bytes_.empty(); }

 private:
  Bytes bytes_;
};

}  // namespace walship

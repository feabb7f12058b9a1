// Byte views and little-endian fields. Every multi-byte number in files and on the wire is little-endian.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace walship {

static_assert(std::endian::native == std::endian::little, "the on-disk and wire formats are little-endian");

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

template <class T>
T loadAt(Bytes bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <class T>
Bytes bytesOf(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

constexpr uint64_t roundUp(uint64_t value, uint64_t powerOfTwo) {
  return (value + powerOfTwo - 1) & ~(powerOfTwo - 1);
}

}  // namespace walship

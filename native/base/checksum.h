// XXH3-64, the one checksum of frames, pages, state files and node keys.
#pragma once

#include <string_view>

#define XXH_INLINE_ALL
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#include <xxhash.h>
#pragma GCC diagnostic pop

#include "base/bytes.h"

namespace walship {

inline uint64_t checksum(Bytes bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

// A short, stable number for a name (cluster id, node id).
inline uint64_t keyOf(std::string_view name) { return XXH3_64bits(name.data(), name.size()); }

}  // namespace walship

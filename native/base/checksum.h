// XXH3-64, the one checksum of frames, pages, state files and node keys.
#pragma once

#include <string_view>

// Scalar code where there is no AVX2: 18 GB/s where SSE2 gives 30; but under emulation, as in the Soft-RoCE lab, 3.4 GB/s
// where SSE2 gives 0.5.
#define XXH_VECTOR 0
#include "base/xxhash_inline.h"

#include "base/bytes.h"
#include "base/checksum_avx2.h"

namespace walship {

inline uint64_t checksum(Bytes bytes) {
#if defined(__x86_64__)
  // 46 GB/s. XXH3 goes by vectors from there on; what is shorter is not worth a call.
  if (bytes.size() > XXH3_MIDSIZE_MAX && __builtin_cpu_supports("avx2")) return checksumAvx2(bytes.data(), bytes.size());
#endif
  return XXH3_64bits(bytes.data(), bytes.size());
}

// A short, stable number for a name (cluster id, node id).
inline uint64_t keyOf(std::string_view name) { return XXH3_64bits(name.data(), name.size()); }

}  // namespace walship

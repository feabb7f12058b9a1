#include "base/checksum_avx2.h"

#if defined(__x86_64__)
// What follows the pragma may run on such a processor only: no header with code that others share may stand behind it.
#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

#define XXH_VECTOR XXH_AVX2
#include "base/xxhash_inline.h"

namespace walship {

uint64_t checksumAvx2(const void* bytes, size_t count) { return XXH3_64bits(bytes, count); }

}  // namespace walship

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// XXH3-64 in AVX2's instructions, for a processor that has them.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
namespace walship {

uint64_t checksumAvx2(const void* bytes, size_t count);

}  // namespace walship
#endif

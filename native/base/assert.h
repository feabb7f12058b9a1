// Invariants that stay on in release builds. A broken invariant means that memory or the log can no longer be
// trusted, so the process stops at once rather than acknowledge anything more.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace walship {

[[noreturn]] inline void assertionFailed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "walship: invariant broken: %s (%s:%d)\n", expression, file, line);
  std::abort();
}

}  // namespace walship

#define WALSHIP_ASSERT(expression) \
  (__builtin_expect(static_cast<bool>(expression), 1) ? static_cast<void>(0) \
                                                      : ::walship::assertionFailed(#expression, __FILE__, __LINE__))

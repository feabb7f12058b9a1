// What the tests do otherwise under a sanitizer.
#pragma once

namespace walship::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
inline constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
inline constexpr bool kSanitized = false;
#endif

// Of cases that differ in a position or a seed alone, the release build takes every one, and a sanitizer, where each takes
// ten times as long and another would go the same ways through the code, every seventh. (A prime: no pattern of the cases
// falls into step with it.)
inline constexpr int kEveryNthCase = kSanitized ? 7 : 1;

}  // namespace walship::test

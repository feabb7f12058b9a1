#include "databases/postgres/libpq.h"

#include <dlfcn.h>

namespace walship::postgres {

namespace {

// node brings an OpenSSL of its own and shows its symbols to everybody: libpq must find the one it was built with first.
// Sanitizers cannot live with that, and bring no OpenSSL.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kOwnFirst = 0;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
constexpr int kOwnFirst = 0;
#else
constexpr int kOwnFirst = RTLD_DEEPBIND;
#endif
#else
constexpr int kOwnFirst = RTLD_DEEPBIND;
#endif

}  // namespace

Libpq loadLibpq(const char* file) {
  Libpq library;
  void* handle = ::dlopen(file, RTLD_NOW | RTLD_LOCAL | kOwnFirst);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    library.problem = std::string("cannot open ") + file + " (" + (reason != nullptr ? reason : "unknown reason") +
                      "): install PostgreSQL's client library (Debian: libpq5)";
    return library;
  }
  const auto find = [&](const char* symbol) {
    void* address = ::dlsym(handle, symbol);
    if (address == nullptr && library.problem.empty()) {
      library.problem = std::string(file) + " has no " + symbol + ": install a newer libpq";
    }
    return address;
  };
#define WALSHIP_LIBPQ_FIND(name, symbol, result, arguments) \
  library.name = reinterpret_cast<decltype(library.name)>(find(#symbol));
  WALSHIP_LIBPQ_FUNCTIONS(WALSHIP_LIBPQ_FIND)
#undef WALSHIP_LIBPQ_FIND
  return library;
}

const Libpq& libpq() {
  static const Libpq library = loadLibpq(kLibpqFile);
  return library;
}

}  // namespace walship::postgres

#include "fabric/verbs/library.h"

#include <dlfcn.h>

namespace walship {

Library loadLibrary([[maybe_unused]] const char* file) {
  Library library;
#if WALSHIP_HAVE_VERBS
  void* handle = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.state = LibraryState::kAbsent;
    const char* reason = ::dlerror();
    library.detail = std::string("cannot open ") + file + " (" +
                     (reason != nullptr ? reason : "unknown reason") +
                     "): install rdma-core (Debian: libibverbs1 and ibverbs-providers)";
    return library;
  }
  const auto find = [&](const char* symbol, const char* version) {
    void* address = ::dlvsym(handle, symbol, (std::string("IBVERBS_") + version).c_str());
    if (address == nullptr && library.detail.empty()) {
      library.state = LibraryState::kSymbolMissing;
      library.detail =
          std::string(file) + " has no " + symbol + "@IBVERBS_" + version + ": install a newer rdma-core";
    }
    return address;
  };
#define WALSHIP_VERBS_FIND(name, symbol, version) \
  library.name = reinterpret_cast<decltype(library.name)>(find(#symbol, version));
  WALSHIP_VERBS_FUNCTIONS(WALSHIP_VERBS_FIND)
#undef WALSHIP_VERBS_FIND
  if (library.detail.empty()) library.state = LibraryState::kLoaded;
#else
  library.detail =
      "walship was built without <infiniband/verbs.h>: install the headers (Debian: libibverbs-dev) and "
      "build again";
#endif
  return library;
}

const Library& verbs() {
  static const Library library = [] {
    Library loaded = loadLibrary(kVerbsLibrary);
#if WALSHIP_HAVE_VERBS
    // On kernels that cannot copy pinned memory at fork() a child process would otherwise take the rings of a
    // live queue pair with it; on newer ones this does nothing.
    if (loaded.loaded()) loaded.forkInit();
#endif
    return loaded;
  }();
  return library;
}

}  // namespace walship

// libibverbs, opened at run time and never linked: the addon loads on every host and can say what is missing.
// The header's own inline functions (post, poll, notify) go through the context's table and need no symbol.
#pragma once

// WALSHIP_WITHOUT_VERBS builds as on a host without the headers.
#if __has_include(<infiniband/verbs.h>) && !defined(WALSHIP_WITHOUT_VERBS)
#define WALSHIP_HAVE_VERBS 1
#include <infiniband/verbs.h>
#else
#define WALSHIP_HAVE_VERBS 0
#endif

#include <string>

namespace walship {

enum class LibraryState { kBuiltWithout, kAbsent, kSymbolMissing, kLoaded };

// Every function with the version it is asked for: the default one would be the oldest a distribution happens
// to have.
#define WALSHIP_VERBS_FUNCTIONS(X)                       \
  X(getDeviceList, ibv_get_device_list, "1.1")           \
  X(freeDeviceList, ibv_free_device_list, "1.1")         \
  X(getDeviceName, ibv_get_device_name, "1.1")           \
  X(openDevice, ibv_open_device, "1.1")                  \
  X(closeDevice, ibv_close_device, "1.1")                \
  X(forkInit, ibv_fork_init, "1.1")                      \
  X(queryDevice, ibv_query_device, "1.1")                \
  X(queryPort, ibv_query_port, "1.1")                    \
  X(queryGid, ibv_query_gid, "1.1")                      \
  X(allocPd, ibv_alloc_pd, "1.1")                        \
  X(deallocPd, ibv_dealloc_pd, "1.1")                    \
  X(regMr, ibv_reg_mr, "1.1")                            \
  X(deregMr, ibv_dereg_mr, "1.1")                        \
  X(createCompChannel, ibv_create_comp_channel, "1.0")   \
  X(destroyCompChannel, ibv_destroy_comp_channel, "1.0") \
  X(createCq, ibv_create_cq, "1.1")                      \
  X(destroyCq, ibv_destroy_cq, "1.1")                    \
  X(getCqEvent, ibv_get_cq_event, "1.1")                 \
  X(ackCqEvents, ibv_ack_cq_events, "1.1")               \
  X(createQp, ibv_create_qp, "1.1")                      \
  X(modifyQp, ibv_modify_qp, "1.1")                      \
  X(destroyQp, ibv_destroy_qp, "1.1")                    \
  X(getAsyncEvent, ibv_get_async_event, "1.1")           \
  X(ackAsyncEvent, ibv_ack_async_event, "1.1")           \
  X(eventTypeString, ibv_event_type_str, "1.1")          \
  X(wcStatusString, ibv_wc_status_str, "1.1")

struct Library {
  LibraryState state = LibraryState::kBuiltWithout;
  std::string detail;  // what to do about it; empty when loaded
#if WALSHIP_HAVE_VERBS
#define WALSHIP_VERBS_POINTER(name, symbol, version) decltype(&::symbol) name = nullptr;
  WALSHIP_VERBS_FUNCTIONS(WALSHIP_VERBS_POINTER)
#undef WALSHIP_VERBS_POINTER
#endif

  bool loaded() const { return state == LibraryState::kLoaded; }
};

constexpr const char* kVerbsLibrary = "libibverbs.so.1";

// Opens `file` and looks every function up. The handle is never closed: contexts outlive any order of
// clean-up.
Library loadLibrary(const char* file);

// libibverbs itself: loaded once, made safe for fork() before its first use.
const Library& verbs();

}  // namespace walship

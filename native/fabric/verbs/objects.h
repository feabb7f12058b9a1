// Owners of verbs objects. Where several are members of one class they stand in the order in which they are
// made, so that they go in the opposite one: queue pair, completion queue, channel, regions, protection
// domain, context.
#pragma once

#include <sys/mman.h>

#include <memory>
#include <utility>

#include "base/bytes.h"
#include "fabric/verbs/library.h"

#if WALSHIP_HAVE_VERBS

namespace walship {

struct Destroy {
  void operator()(ibv_context* object) const { verbs().closeDevice(object); }
  void operator()(ibv_pd* object) const { verbs().deallocPd(object); }
  void operator()(ibv_mr* object) const { verbs().deregMr(object); }
  void operator()(ibv_comp_channel* object) const { verbs().destroyCompChannel(object); }
  void operator()(ibv_cq* object) const { verbs().destroyCq(object); }
  void operator()(ibv_qp* object) const { verbs().destroyQp(object); }
};

using ContextPtr = std::unique_ptr<ibv_context, Destroy>;
using PdPtr = std::unique_ptr<ibv_pd, Destroy>;
using MrPtr = std::unique_ptr<ibv_mr, Destroy>;
using ChannelPtr = std::unique_ptr<ibv_comp_channel, Destroy>;
using CqPtr = std::unique_ptr<ibv_cq, Destroy>;
using QpPtr = std::unique_ptr<ibv_qp, Destroy>;

// The symbol wants the shorter structure of old; both begin alike.
inline int queryPort(ibv_context* context, int port, ibv_port_attr* attributes) {
  return verbs().queryPort(context, static_cast<uint8_t>(port),
                           reinterpret_cast<_compat_ibv_port_attr*>(attributes));
}

// Anonymous memory of a link's own, kept from children: a device writes to it behind the kernel's back.
class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(size_t bytes) {
    void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) return;
    ::madvise(address, bytes, MADV_DONTFORK);
    bytes_ = {static_cast<std::byte*>(address), bytes};
  }
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping() {
    if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
  }
  MutableBytes bytes() const { return bytes_; }

 private:
  MutableBytes bytes_;
};

}  // namespace walship

#endif

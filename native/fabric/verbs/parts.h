// What a Device is made of.
#pragma once

#include <atomic>
#include <mutex>
#include <vector>

#include "fabric/verbs/device.h"
#include "fabric/verbs/objects.h"

#if WALSHIP_HAVE_VERBS

namespace walship {

// Set when the device reports the end of a queue pair, its completion queue, its port or the whole device;
// read by the link in every poll().
struct Alarm {
  static constexpr int kQuiet = -1;
  std::atomic<int> event{kQuiet};  // ibv_event_type
};

// The device's asynchronous events, handed to the links they concern. Links of one device may live in several
// threads.
class Alarms {
 public:
  void watch(const ibv_qp* qp, const ibv_cq* cq, Alarm* alarm);
  void unwatch(const Alarm* alarm);
  // Takes what is there and acknowledges it at once: an event in hand would hold up the end of its queue
  // pair.
  void drain(ibv_context* context, int port);

 private:
  struct Watch {
    const ibv_qp* qp;
    const ibv_cq* cq;
    Alarm* alarm;
  };
  void raise(const ibv_async_event& event, int port);

  std::mutex mutex_;
  std::vector<Watch> watches_;
};

struct Device::Parts {
  ContextPtr context;
  PdPtr pd;
  MrPtr arena;
  MutableBytes arenaBytes;
  ibv_device_attr limits{};
  Alarms alarms;

  bool inArena(const std::byte* data, size_t bytes) const {
    return data >= arenaBytes.data() && bytes <= arenaBytes.size() &&
           static_cast<size_t>(data - arenaBytes.data()) <= arenaBytes.size() - bytes;
  }
};

}  // namespace walship

#endif

#include "fabric/verbs/device.h"

#include <fcntl.h>

#include <algorithm>

#include "fabric/verbs/parts.h"

namespace walship {

Device::Device(std::unique_ptr<Parts> parts, VerbsChoice choice, VerbsSettings settings)
    : parts_(std::move(parts)), choice_(std::move(choice)), settings_(std::move(settings)) {}

std::string Device::name() const {
  return choice_.device + "/" + std::to_string(choice_.port) + "/" + std::to_string(choice_.gid.index);
}

#if WALSHIP_HAVE_VERBS

Device::~Device() = default;

Result<std::vector<std::shared_ptr<Device>>> Device::openAll(const VerbsSettings& settings) {
  auto choices = chooseRails(verbsCapabilities(), settings);
  if (!choices) return choices.error();
  std::vector<std::shared_ptr<Device>> devices;
  for (VerbsChoice& choice : choices.value()) {
    auto device = open(std::move(choice), settings);
    if (!device) return device.error();
    devices.push_back(device.take());
  }
  return devices;
}

Result<std::shared_ptr<Device>> Device::open(VerbsChoice choice, const VerbsSettings& settings) {
  struct FreeList {
    void operator()(ibv_device** list) const { verbs().freeDeviceList(list); }
  };
  int count = 0;
  const std::unique_ptr<ibv_device*, FreeList> list(verbs().getDeviceList(&count));
  const auto unavailable = [&](const std::string& what) {
    return systemError("WALSHIP_ERR_RDMA_UNAVAILABLE", what + " " + choice.device, errno);
  };
  ibv_device* device = nullptr;
  for (int i = 0; list && i < count; ++i) {
    if (choice.device == verbs().getDeviceName(list.get()[i])) device = list.get()[i];
  }
  if (device == nullptr) {
    errno = ENODEV;
    return unavailable("cannot find RDMA device");
  }
  auto parts = std::make_unique<Parts>();
  parts->context.reset(verbs().openDevice(device));
  if (!parts->context) return unavailable("cannot open RDMA device");
  if (verbs().queryDevice(parts->context.get(), &parts->limits) != 0)
    return unavailable("cannot query RDMA device");
  parts->pd.reset(verbs().allocPd(parts->context.get()));
  if (!parts->pd) return unavailable("cannot make a protection domain on");
  const int events = parts->context->async_fd;
  if (::fcntl(events, F_SETFL, ::fcntl(events, F_GETFL) | O_NONBLOCK) != 0) {
    return unavailable("cannot watch the events of");
  }
  return std::make_shared<Device>(std::move(parts), std::move(choice), settings);
}

Result<void> Device::registerArena(MutableBytes arena) {
  WALSHIP_ASSERT(!parts_->arena);
  parts_->arena.reset(verbs().regMr(parts_->pd.get(), arena.data(), arena.size(),
                                    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE));
  if (!parts_->arena) {
    return systemError("WALSHIP_ERR_RDMA_UNAVAILABLE",
                       "cannot register " + std::to_string(arena.size()) + " bytes of arena with " + name() +
                           " (raise the locked-memory limit, `ulimit -l`, or choose a smaller arena)",
                       errno);
  }
  parts_->arenaBytes = arena;
  return {};
}

void Alarms::watch(const ibv_qp* qp, const ibv_cq* cq, Alarm* alarm) {
  const std::lock_guard lock(mutex_);
  watches_.push_back({qp, cq, alarm});
}

void Alarms::unwatch(const Alarm* alarm) {
  const std::lock_guard lock(mutex_);
  std::erase_if(watches_, [&](const Watch& watch) { return watch.alarm == alarm; });
}

void Alarms::drain(ibv_context* context, int port) {
  const std::lock_guard lock(mutex_);
  ibv_async_event event{};
  while (verbs().getAsyncEvent(context, &event) == 0) {
    raise(event, port);
    verbs().ackAsyncEvent(&event);
  }
}

void Alarms::raise(const ibv_async_event& event, int port) {
  for (const Watch& watch : watches_) {
    bool concerned = false;
    switch (event.event_type) {
      case IBV_EVENT_QP_FATAL:
      case IBV_EVENT_QP_REQ_ERR:
      case IBV_EVENT_QP_ACCESS_ERR: concerned = event.element.qp == watch.qp; break;
      case IBV_EVENT_CQ_ERR: concerned = event.element.cq == watch.cq; break;
      case IBV_EVENT_PORT_ERR: concerned = event.element.port_num == port; break;
      case IBV_EVENT_DEVICE_FATAL: concerned = true; break;
      default: break;
    }
    if (concerned) watch.alarm->event.store(static_cast<int>(event.event_type), std::memory_order_release);
  }
}

#else

struct Device::Parts {};

Device::~Device() = default;

Result<std::vector<std::shared_ptr<Device>>> Device::openAll(const VerbsSettings& settings) {
  return chooseRails(verbsCapabilities(), settings).error();
}

Result<void> Device::registerArena(MutableBytes) {
  return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", verbs().detail);
}

#endif

}  // namespace walship

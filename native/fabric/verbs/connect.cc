#include "fabric/verbs/connect.h"

#include <poll.h>
#include <sys/random.h>

#include <algorithm>

#include "base/clock.h"
#include "base/wire.h"
#include "fabric/socket.h"
#include "fabric/verbs/link.h"

namespace walship {

#if WALSHIP_HAVE_VERBS

namespace {

// Milliseconds for poll(), rounded up; 0: the deadline has come.
int remainingMs(uint64_t deadlineNs) {
  const uint64_t now = monotonicNs();
  if (now >= deadlineNs) return 0;
  return static_cast<int>(std::min<uint64_t>((deadlineNs - now + 999'999) / 1'000'000, 60'000));
}

// The control connection during set-up.
class Control {
 public:
  Control(int fd, uint64_t deadlineNs) : fd_(fd), deadlineNs_(deadlineNs) {}

  Result<void> tell(RecordKind kind, Bytes body) {
    return writeFully(fd_, makeRecord(kind, body), deadlineNs_);
  }

  // The body of the next record, which must be of `kind`.
  Result<Buffer> hear(RecordKind kind) {
    RecordHeader raw{};
    if (auto read = readFully(fd_, std::as_writable_bytes(std::span(&raw, 1)), deadlineNs_); !read)
      return read.error();
    const auto header = parseRecordHeader(bytesOf(raw));
    if (!header) return header.error();
    Buffer body(header.value().bodyBytes);
    if (auto read = readFully(fd_, body, deadlineNs_); !read) return read.error();
    const auto heard = static_cast<RecordKind>(header.value().kind);
    if (heard == RecordKind::kFailure) {
      return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", "the peer gave up on RDMA: " + parseFailure(body));
    }
    if (heard != kind) {
      return makeError("WALSHIP_ERR_LINK_PROTOCOL", "the peer's RDMA set-up records come in the wrong order");
    }
    return body;
  }

 private:
  int fd_;
  uint64_t deadlineNs_;
};

// One attempt, from nothing to a queue pair that has carried a packet both ways.
class Setup {
 public:
  Setup(Device& device, int control, uint64_t deadlineNs)
      : device_(device), controlFd_(control), deadlineNs_(deadlineNs), control_(control, deadlineNs) {}

  Result<void> run() {
    Result<void> (Setup::*const steps[])() = {&Setup::prepare, &Setup::exchange, &Setup::start, &Setup::ping};
    for (const auto step : steps) {
      auto done = (this->*step)();
      if (done) continue;
      // What came from the peer is no news to it; a second end of the connection is no error on top.
      const std::string& text = done.error().message;
      const auto shown = std::as_bytes(std::span(text.data(), std::min<size_t>(text.size(), kRecordBodyMax)));
      static_cast<void>(control_.tell(RecordKind::kFailure, shown));
      return done;
    }
    return {};
  }

  Queues takeQueues() { return std::move(queues_); }
  const Endpoint& peer() const { return peer_; }
  uint32_t pathMtuBytes() const { return pathMtuBytes_; }

 private:
  Result<void> prepare() {
    auto made = makeQueues(device_);
    if (!made) return made.error();
    queues_ = made.take();
    ibv_port_attr port{};
    if (queryPort(device_.parts().context.get(), device_.choice().port, &port) != 0) {
      return systemError("WALSHIP_ERR_RDMA_UNAVAILABLE", "cannot query the port of " + device_.name(), errno);
    }
    uint32_t random = 0;
    if (::getrandom(&random, sizeof random, 0) != sizeof random) {
      return systemError("WALSHIP_ERR_RDMA_UNAVAILABLE", "cannot get random numbers", errno);
    }
    own_.gid = device_.choice().gid.gid;
    own_.queuePair = queues_.qp->qp_num;
    own_.packetSequence = random & 0xffffff;
    own_.pathMtuBytes = device_.choice().mtuBytes;
    own_.receiveDepth = queues_.receiveDepth;
    own_.lid = port.lid;
    return {};
  }

  Result<void> exchange() {
    if (auto told = control_.tell(RecordKind::kEndpoint, encodeEndpoint(own_)); !told) return told;
    const auto body = control_.hear(RecordKind::kEndpoint);
    if (!body) return body.error();
    auto endpoint = parseEndpoint(body.value());
    if (!endpoint) return endpoint.error();
    peer_ = endpoint.take();
    pathMtuBytes_ = std::min(own_.pathMtuBytes, peer_.pathMtuBytes);
    return {};
  }

  Result<void> start() {
    if (auto ready = readyToReceive(queues_, device_, peer_, pathMtuBytes_); !ready) return ready;
    if (auto ready = readyToSend(queues_, device_, own_.packetSequence); !ready) return ready;
    if (auto told = control_.tell(RecordKind::kReady, {}); !told) return told;
    if (auto heard = control_.hear(RecordKind::kReady); !heard) return heard.error();
    return {};
  }

  Result<void> ping() {
    const MessageHeader header{static_cast<uint8_t>(MessageKind::kPing), 0, 0,
                               pathMtuBytes_ - static_cast<uint32_t>(sizeof(MessageHeader))};
    std::memcpy(queues_.sendRing(), &header, sizeof header);
    ibv_sge part{reinterpret_cast<uint64_t>(queues_.sendRing()), pathMtuBytes_, queues_.region->lkey};
    ibv_send_wr request{};
    request.sg_list = &part;
    request.num_sge = 1;
    request.opcode = IBV_WR_SEND;
    request.send_flags = IBV_SEND_SIGNALED;
    ibv_send_wr* refused = nullptr;
    if (const int failed = ibv_post_send(queues_.qp.get(), &request, &refused); failed != 0) {
      return systemError("WALSHIP_ERR_RDMA_UNAVAILABLE", "cannot send over " + device_.name(), failed);
    }
    bool peerDone = false;
    while (!sent_ || !received_) {
      if (ibv_req_notify_cq(queues_.cq.get(), 0) != 0) {
        return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", "cannot watch the completions of " + device_.name());
      }
      if (auto taken = takeCompletions(); !taken) return taken;
      if (sent_ && received_) break;
      // After the peer is done nothing but its end comes this way.
      const short fromPeer = peerDone ? POLLRDHUP : POLLIN;
      pollfd waiting[2] = {{queues_.channel->fd, POLLIN, 0}, {controlFd_, fromPeer, 0}};
      if (::poll(waiting, 2, remainingMs(deadlineNs_)) == 0) {
        return makeError("WALSHIP_ERR_TIMEOUT",
                         "no packet came through the fabric in time from " + textOf(peer_.gid));
      }
      if (waiting[1].revents != 0) {
        if (peerDone) return makeError("WALSHIP_ERR_LINK_CLOSED", "the peer left during the RDMA set-up");
        if (auto heard = control_.hear(RecordKind::kDone); !heard) return heard.error();
        peerDone = true;
      }
      takeEvents();
    }
    if (auto told = control_.tell(RecordKind::kDone, {}); !told) return told;
    if (!peerDone) {
      if (auto heard = control_.hear(RecordKind::kDone); !heard) return heard.error();
    }
    return {};
  }

  // Only the two of the ping can be there: the peer sends more when it has heard that this end is done.
  Result<void> takeCompletions() {
    ibv_wc completion{};
    while (!(sent_ && received_) && ibv_poll_cq(queues_.cq.get(), 1, &completion) > 0) {
      if (completion.status != IBV_WC_SUCCESS) {
        return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE",
                         "the fabric between " + device_.name() + " (" + device_.choice().gid.address +
                             ") and " + textOf(peer_.gid) + " carries no packets of " +
                             std::to_string(pathMtuBytes_) +
                             " bytes: " + verbs().wcStatusString(completion.status));
      }
      if ((completion.wr_id & kReceiveMark) == 0) {
        sent_ = true;
        continue;
      }
      const uint64_t slot = completion.wr_id & ~kReceiveMark;
      const auto header = parseMessage(queues_.slot(slot).first(completion.byte_len));
      if (!header || header->kind != static_cast<uint8_t>(MessageKind::kPing)) {
        return makeError("WALSHIP_ERR_LINK_PROTOCOL", "the peer's first packet is not the expected one");
      }
      received_ = true;
      ibv_recv_wr& request = queues_.receiveRequests[slot];
      request.next = nullptr;
      if (!queues_.postReceives(&request)) {
        return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", "cannot post receives on " + device_.name());
      }
    }
    return {};
  }

  void takeEvents() {
    ibv_cq* cq = nullptr;
    void* context = nullptr;
    while (verbs().getCqEvent(queues_.channel.get(), &cq, &context) == 0)
      verbs().ackCqEvents(queues_.cq.get(), 1);
  }

  Device& device_;
  int controlFd_;
  uint64_t deadlineNs_;
  Control control_;
  Queues queues_;
  Endpoint own_;
  Endpoint peer_;
  uint32_t pathMtuBytes_ = 0;
  bool sent_ = false;
  bool received_ = false;
};

}  // namespace

Result<std::unique_ptr<Link>> connectVerbs(std::shared_ptr<Device> device, Fd control, uint64_t deadlineNs) {
  Setup setup(*device, control.get(), deadlineNs);
  if (auto done = setup.run(); !done) return done.error();
  return VerbsLink::make(std::move(device), setup.takeQueues(), std::move(control), setup.peer(),
                         setup.pathMtuBytes());
}

#else

Result<std::unique_ptr<Link>> connectVerbs(std::shared_ptr<Device>, Fd, uint64_t) {
  return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", verbs().detail);
}

#endif

}  // namespace walship

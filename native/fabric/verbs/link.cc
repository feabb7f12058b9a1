#include "fabric/verbs/link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/clock.h"

#if WALSHIP_HAVE_VERBS

namespace walship {
namespace {

// How often a link that is polled without pause looks at the control connection.
constexpr uint64_t kSidesEveryNs = 1'000'000;
constexpr uint32_t kPollsPerClock = 64;
// Acknowledging an event takes a lock: done for many at once.
constexpr uint32_t kEventsPerAck = 64;
// A sleeping receiver is woken at the end of a chain, and on the way by every so many bytes.
constexpr uint64_t kBytesPerWake = 256u << 10;

}  // namespace

Result<std::unique_ptr<Link>> VerbsLink::make(std::shared_ptr<Device> device, Queues queues, Fd control,
                                              const Endpoint& peer, uint32_t pathMtuBytes) {
  Fd events(::fcntl(device->parts().context->async_fd, F_DUPFD_CLOEXEC, 0));
  if (!events.valid() || ::fcntl(control.get(), F_SETFL, ::fcntl(control.get(), F_GETFL) | O_NONBLOCK) != 0) {
    return systemError("WALSHIP_ERR_RDMA_UNAVAILABLE", "cannot watch the events of " + device->name(), errno);
  }
  return std::unique_ptr<Link>(new VerbsLink(std::move(device), std::move(queues), std::move(control),
                                             std::move(events), peer, pathMtuBytes));
}

VerbsLink::VerbsLink(std::shared_ptr<Device> device, Queues queues, Fd control, Fd deviceEvents,
                     const Endpoint& peer, uint32_t pathMtuBytes)
    : device_(std::move(device)),
      queues_(std::move(queues)),
      control_(std::move(control)),
      deviceEvents_(std::move(deviceEvents)),
      rail_{"verbs", device_->name(), device_->choice().gid.address, textOf(peer.gid), pathMtuBytes},
      credits_(queues_.receiveDepth, peer.receiveDepth),
      requests_(queues_.sendDepth),
      parts_(queues_.sendDepth),
      sent_(queues_.sendDepth) {
  device_->parts().alarms.watch(queues_.qp.get(), queues_.cq.get(), &alarm_);
}

VerbsLink::~VerbsLink() {
  // The peer learns it before its packets are refused. Then the fence: with the queue pair everything that
  // could still write here is gone, whatever the peer does.
  ::shutdown(control_.get(), SHUT_RDWR);
  device_->parts().alarms.unwatch(&alarm_);
  queues_.qp.reset();
  // A completion queue waits for the acknowledgement of every event taken from it.
  if (eventsToAck_ > 0) verbs().ackCqEvents(queues_.cq.get(), eventsToAck_);
}

// ---- downstream side ----

RemotePage VerbsLink::expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) {
  const Device::Parts& parts = device_->parts();
  WALSHIP_ASSERT(grantId == firstGrant_ + grants_.size());
  WALSHIP_ASSERT(grants_.size() < kGrantsMax);
  WALSHIP_ASSERT(offset <= pageBytes && parts.inArena(page, pageBytes));
  grants_.push_back({true, offset, pageBytes});
  return {reinterpret_cast<uint64_t>(page), parts.arena->rkey};
}

void VerbsLink::forget(uint32_t grantId) {
  const uint32_t index = grantId - firstGrant_;
  if (index >= grants_.size()) return;  // a later page has been begun since
  grants_[index].open = false;
  while (!grants_.empty() && !grants_.front().open) {
    grants_.pop_front();
    ++firstGrant_;
  }
}

// ---- sending ----

ibv_send_wr* VerbsLink::nextRequest(uint32_t reserve) {
  if (down_ || failure_) return nullptr;
  if (queued_ - completed_ + reserve >= queues_.sendDepth) {
    roomWanted_ = true;
    return nullptr;
  }
  const size_t index = queued_ % queues_.sendDepth;
  ibv_send_wr& request = requests_[index];
  request = {};
  request.wr_id = queued_;
  request.sg_list = &parts_[index];
  request.num_sge = 1;
  return &request;
}

// Space for a message, contiguous; null: the ring is full.
std::byte* VerbsLink::ringSpace(uint32_t bytes) {
  const auto needed = static_cast<uint32_t>(roundUp(bytes, kRingAlign));
  uint64_t head = ringHead_;
  if (head % kSendRingBytes + needed > kSendRingBytes) head = roundUp(head, kSendRingBytes);
  if (head + needed - ringTail_ > kSendRingBytes) {
    roomWanted_ = true;
    return nullptr;
  }
  ringHead_ = head + needed;
  return queues_.sendRing() + head % kSendRingBytes;
}

bool VerbsLink::ship(Bytes range, uint32_t grantId, const RemotePage& page, uint32_t offset) {
  const Device::Parts& device = device_->parts();
  WALSHIP_ASSERT(!range.empty() && device.inArena(range.data(), range.size()));
  if (!credits_.maySend()) return false;
  ibv_send_wr* request = nextRequest(Credits::kReserve);
  if (request == nullptr) return false;
  *request->sg_list = {reinterpret_cast<uint64_t>(range.data()), static_cast<uint32_t>(range.size()),
                       device.arena->lkey};
  request->opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  const Immediate immediate{static_cast<uint16_t>(grantId), 0};
  request->imm_data = htonl(immediate.pack());
  request->wr.rdma.remote_addr = page.address + offset;
  request->wr.rdma.rkey = page.rkey;
  credits_.spend();
  ++counters_.shippedRanges;
  counters_.shippedBytes += range.size();
  counters_.wireBytesSent += range.size();
  sent_[queued_ % queues_.sendDepth] = {counters_.shippedRanges, ringHead_};
  ++queued_;
  return true;
}

bool VerbsLink::send(Bytes message) {
  WALSHIP_ASSERT(message.size() <= kMessageBytesMax);
  if (!credits_.maySend() || !queueMessage(MessageKind::kMessage, message, Credits::kReserve)) return false;
  ++counters_.messagesSent;
  return true;
}

bool VerbsLink::queueMessage(MessageKind kind, Bytes message, uint32_t reserve) {
  ibv_send_wr* request = nextRequest(reserve);
  if (request == nullptr) return false;
  const auto length = static_cast<uint32_t>(message.size());
  const uint32_t bytes = static_cast<uint32_t>(sizeof(MessageHeader)) + length;
  std::byte* space = ringSpace(bytes);
  if (space == nullptr) return false;
  const MessageHeader header{static_cast<uint8_t>(kind), 0, 0, length};
  std::memcpy(space, &header, sizeof header);
  if (length > 0) std::memcpy(space + sizeof header, message.data(), length);
  *request->sg_list = {reinterpret_cast<uint64_t>(space), bytes, queues_.region->lkey};
  request->opcode = IBV_WR_SEND;
  if (bytes <= queues_.inlineBytes) request->send_flags |= IBV_SEND_INLINE;
  credits_.spend();
  counters_.wireBytesSent += bytes;
  sent_[queued_ % queues_.sendDepth] = {counters_.shippedRanges, ringHead_};
  ++queued_;
  return true;
}

// The first of a chain brings all credits: the sooner the better.
void VerbsLink::giveCreditsBack(ibv_send_wr& first) {
  const uint16_t owed = credits_.takeOwed();
  if (first.opcode == IBV_WR_SEND) {
    std::memcpy(reinterpret_cast<std::byte*>(first.sg_list->addr) + offsetof(MessageHeader, credits), &owed,
                sizeof owed);
  } else {
    const Immediate immediate{Immediate::parse(ntohl(first.imm_data)).grant, owed};
    first.imm_data = htonl(immediate.pack());
  }
}

void VerbsLink::flush() {
  if (queued_ == posted_ || down_ || failure_) return;
  const uint32_t depth = queues_.sendDepth;
  // The last of a chain is signalled, so that nothing stays pinned when the link falls idle, and a few on the
  // way.
  uint64_t unannounced = 0;
  for (uint64_t i = posted_; i < queued_; ++i) {
    ibv_send_wr& request = requests_[i % depth];
    const bool last = i + 1 == queued_;
    request.next = last ? nullptr : &requests_[(i + 1) % depth];
    if (last || i % (depth / 4) == 0) request.send_flags |= IBV_SEND_SIGNALED;
    unannounced += request.sg_list->length;
    if (last || unannounced >= kBytesPerWake) {
      request.send_flags |= IBV_SEND_SOLICITED;
      unannounced = 0;
    }
  }
  ibv_send_wr* first = &requests_[posted_ % depth];
  giveCreditsBack(*first);
  ++counters_.doorbells;
  ibv_send_wr* refused = nullptr;
  if (const int failed = ibv_post_send(queues_.qp.get(), first, &refused); failed != 0) {
    fail("WALSHIP_ERR_LINK_BROKEN", std::string("the device refused a request: ") + std::strerror(failed));
  }
  posted_ = queued_;
}

void VerbsLink::completed(uint64_t request) {
  const Sent& sent = sent_[request % queues_.sendDepth];
  completed_ = request + 1;
  ringTail_ = sent.ringHead;
  roomWanted_ = false;
  if (sent.shippedRanges > reportedRanges_) {
    reportedRanges_ = sent.shippedRanges;
    handler_->onShipped(reportedRanges_);
  }
}

// ---- receiving ----

bool VerbsLink::poll() {
  if (down_) return false;
  WALSHIP_ASSERT(handler_ != nullptr);
  const int count = held_ > 0 ? held_ : ibv_poll_cq(queues_.cq.get(), kBatch, batch_);
  held_ = 0;
  if (count > 0) {
    takeBatch(count);
  } else if (count < 0) {
    fail("WALSHIP_ERR_LINK_BROKEN", "the completion queue cannot be read");
  } else if (peerGone_) {
    fail("WALSHIP_ERR_LINK_CLOSED", "the peer left");
  } else if (sidesDue_ || ++pollsSinceClock_ >= kPollsPerClock) {
    watchSides();
  }
  if (alarm_.event.load(std::memory_order_acquire) != Alarm::kQuiet) {
    const auto event = static_cast<ibv_event_type>(alarm_.event.load(std::memory_order_relaxed));
    fail("WALSHIP_ERR_LINK_BROKEN", std::string("the device reports: ") + verbs().eventTypeString(event));
  }
  return reportDown() || count > 0 || peerGone_;
}

void VerbsLink::takeBatch(int count) {
  armed_ = false;
  for (int i = 0; i < count && !failure_; ++i) {
    const ibv_wc& completion = batch_[i];
    if (completion.status != IBV_WC_SUCCESS) {
      broke(completion);
    } else if ((completion.wr_id & kReceiveMark) != 0) {
      received(completion);
    } else {
      completed(completion.wr_id);
    }
  }
  if (receiveFirst_ == nullptr) return;
  receiveLast_->next = nullptr;
  if (!queues_.postReceives(receiveFirst_)) fail("WALSHIP_ERR_LINK_BROKEN", "the device refused a receive");
  credits_.posted(receiveCount_);
  receiveFirst_ = receiveLast_ = nullptr;
  receiveCount_ = 0;
  returnCredits();
}

void VerbsLink::received(const ibv_wc& completion) {
  const uint64_t slot = completion.wr_id & ~kReceiveMark;
  if (completion.opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
    landed(Immediate::parse(ntohl(completion.imm_data)), completion.byte_len);
  } else {
    messageCame(queues_.slot(slot).first(std::min(completion.byte_len, kSlotBytes)));
  }
  ibv_recv_wr& request = queues_.receiveRequests[slot];
  (receiveFirst_ == nullptr ? receiveFirst_ : receiveLast_->next) = &request;
  receiveLast_ = &request;
  ++receiveCount_;
}

void VerbsLink::landed(const Immediate& immediate, uint32_t length) {
  if (!credits_.regain(immediate.credits)) return violated("it gave back credits that it never had");
  // Pages are filled one after the other: the first range of one ends those before it.
  const auto ahead = static_cast<uint16_t>(immediate.grant - static_cast<uint16_t>(firstGrant_));
  if (ahead >= grants_.size() || !grants_[ahead].open)
    return violated("it wrote to a page that was not granted");
  firstGrant_ += ahead;
  grants_.erase(grants_.begin(), grants_.begin() + ahead);
  Grant& grant = grants_.front();
  if (length == 0 || length > grant.pageBytes - grant.filled)
    return violated("it wrote past the end of a page");
  grant.filled += length;
  counters_.landedBytes += length;
  handler_->onLanded(firstGrant_, length);
}

void VerbsLink::messageCame(Bytes bytes) {
  const auto header = parseMessage(bytes);
  if (!header || header->kind == static_cast<uint8_t>(MessageKind::kPing) ||
      !credits_.regain(header->credits)) {
    return violated("its message has no valid header");
  }
  if (header->kind == static_cast<uint8_t>(MessageKind::kCredits)) return;
  ++counters_.messagesReceived;
  handler_->onMessage(bytes.subspan(sizeof(MessageHeader)));
}

// What is queued already will take the credits along; when nothing is, a message of their own does.
void VerbsLink::returnCredits() {
  if (queued_ != posted_ || !credits_.returnDue() || !credits_.mayReturn()) return;
  if (queueMessage(MessageKind::kCredits, {}, 0)) flush();
}

// ---- waiting ----

std::vector<int> VerbsLink::fds() const { return {queues_.channel->fd, control_.get(), deviceEvents_.get()}; }

bool VerbsLink::arm() {
  if (down_) return true;
  if (failure_ || held_ > 0 || peerGone_ || alarm_.event.load(std::memory_order_acquire) != Alarm::kQuiet)
    return false;
  if (!armed_ || roomWanted_) {
    ibv_cq* cq = nullptr;
    void* context = nullptr;
    while (verbs().getCqEvent(queues_.channel.get(), &cq, &context) == 0) ++eventsToAck_;
    if (eventsToAck_ >= kEventsPerAck) {
      verbs().ackCqEvents(queues_.cq.get(), eventsToAck_);
      eventsToAck_ = 0;
    }
    // What the peer sent wakes; the completion of what was sent here does only if somebody waits for room. It
    // is taken together with the peer's answer.
    if (ibv_req_notify_cq(queues_.cq.get(), roomWanted_ ? 0 : 1) != 0) {
      fail("WALSHIP_ERR_LINK_BROKEN", "the completion queue cannot be armed");
      return false;
    }
    armed_ = true;
  }
  held_ = std::max(0, ibv_poll_cq(queues_.cq.get(), kBatch, batch_));
  if (held_ > 0) return false;
  sidesDue_ = true;  // whatever wakes may be the control connection
  return true;
}

// The control connection carries nothing after the set-up; that it ends says that the peer has gone.
void VerbsLink::watchSides() {
  pollsSinceClock_ = 0;
  const uint64_t now = monotonicNs();
  if (!sidesDue_ && now - sidesWatchedNs_ < kSidesEveryNs) return;
  sidesDue_ = false;
  sidesWatchedNs_ = now;
  pollfd sides[2] = {{control_.get(), POLLIN | POLLRDHUP, 0}, {deviceEvents_.get(), POLLIN, 0}};
  if (::poll(sides, 2, 0) <= 0) return;
  if (sides[1].revents != 0)
    device_->parts().alarms.drain(device_->parts().context.get(), device_->choice().port);
  if (sides[0].revents == 0) return;
  std::byte byte{};
  const ssize_t got = ::recv(control_.get(), &byte, sizeof byte, MSG_DONTWAIT);
  if (got > 0) {
    violated("it wrote to the control connection");
  } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
    peerGone_ = true;  // reported when all that it had sent has been taken
  }
}

// ---- the end ----

void VerbsLink::violated(const std::string& what) {
  fail("WALSHIP_ERR_LINK_PROTOCOL", "the peer broke the protocol: " + what);
}

// The completions after the first one in error say only that they were flushed: the reason may stand behind
// them.
void VerbsLink::broke(const ibv_wc& completion) {
  sidesDue_ = true;
  watchSides();
  if (failure_) return;
  if (peerGone_) return fail("WALSHIP_ERR_LINK_CLOSED", "the peer left");
  ibv_wc cause = completion;
  for (uint32_t i = 0; cause.status == IBV_WC_WR_FLUSH_ERR && i < 2 * queues_.sendDepth; ++i) {
    if (ibv_poll_cq(queues_.cq.get(), 1, &cause) <= 0) break;
  }
  if (cause.status == IBV_WC_SUCCESS) cause = completion;
  fail("WALSHIP_ERR_LINK_BROKEN", std::string((cause.wr_id & kReceiveMark) != 0 ? "receiving" : "sending") +
                                      " failed: " + verbs().wcStatusString(cause.status) + " (vendor error " +
                                      std::to_string(cause.vendor_err) + ")");
}

// The first reason counts. Nothing more is let in from here on.
void VerbsLink::fail(const char* code, const std::string& what) {
  if (failure_ || down_) return;
  failure_ = makeError(
      code, "RDMA link over " + rail_.device + " from " + rail_.local + " to " + rail_.remote + ": " + what);
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_ERR;
  static_cast<void>(verbs().modifyQp(queues_.qp.get(), &attributes, IBV_QP_STATE));
}

bool VerbsLink::reportDown() {
  if (!failure_) return false;
  down_ = true;
  handler_->onDown(*failure_);
  return true;
}

}  // namespace walship

#endif

// The verbs objects of one link and the memory its messages travel in: made and brought up by the set-up,
// then moved into the link.
#pragma once

#include <vector>

#include "fabric/verbs/endpoint.h"
#include "fabric/verbs/parts.h"
#include "fabric/verbs/wire.h"

#if WALSHIP_HAVE_VERBS

namespace walship {

// Outgoing messages stand here from send() until the device has sent them.
constexpr uint32_t kSendRingBytes = 256u << 10;
constexpr uint32_t kRingAlign = 16;

// Receive requests carry their slot's number, marked so that a completion in error, of which nothing but the
// id is valid, still says which side it is of.
constexpr uint64_t kReceiveMark = uint64_t{1} << 63;

struct Queues {
  uint32_t sendDepth = 0;
  uint32_t receiveDepth = 0;
  uint32_t inlineBytes = 0;
  // In the order in which they are made; see objects.h.
  Mapping memory;  // the send ring, then receiveDepth slots
  MrPtr region;
  ChannelPtr channel;
  CqPtr cq;  // one for both directions
  QpPtr qp;
  // One request per slot, ready to be posted again.
  std::vector<ibv_sge> receiveParts;
  std::vector<ibv_recv_wr> receiveRequests;

  std::byte* sendRing() const { return memory.bytes().data(); }
  Bytes slot(uint64_t index) const {
    return {memory.bytes().data() + kSendRingBytes + index * kSlotStride, kSlotBytes};
  }
  // Posts the chain that begins at `first` and ends with a null next.
  bool postReceives(ibv_recv_wr* first) {
    ibv_recv_wr* refused = nullptr;
    return ibv_post_recv(qp.get(), first, &refused) == 0;
  }

  static constexpr uint32_t kSlotStride = roundUp(kSlotBytes, 64);
};

// Error of all three: WALSHIP_ERR_RDMA_UNAVAILABLE.
// Makes everything, in state INIT, with all receives posted.
Result<Queues> makeQueues(Device& device);
Result<void> readyToReceive(Queues& queues, const Device& device, const Endpoint& peer,
                            uint32_t pathMtuBytes);
Result<void> readyToSend(Queues& queues, const Device& device, uint32_t packetSequence);

}  // namespace walship

#endif

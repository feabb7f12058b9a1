#include "fabric/verbs/queues.h"

#include <fcntl.h>

#include <algorithm>

#if WALSHIP_HAVE_VERBS

namespace walship {
namespace {

Error unavailable(const std::string& what, int number) {
  return systemError("WALSHIP_ERR_RDMA_UNAVAILABLE", what, number);
}

// What the device gives, at most as much as was asked for.
uint32_t depthOf(const Device& device, const ibv_device_attr& limits) {
  const auto most = static_cast<uint32_t>(std::max(0, std::min(limits.max_qp_wr, limits.max_cqe / 2)));
  return std::min(device.settings().queueDepth, most) / 4 * 4;
}

ibv_mtu mtuOf(uint32_t bytes) { return static_cast<ibv_mtu>(std::bit_width(bytes) - 8); }

}  // namespace

Result<Queues> makeQueues(Device& device) {
  const Device::Parts& parts = device.parts();
  if (!parts.arena)
    return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", "no arena is registered with " + device.name());
  Queues queues;
  const uint32_t depth = depthOf(device, parts.limits);
  if (depth < kReceiveDepthMin) {
    return makeError("WALSHIP_ERR_RDMA_UNAVAILABLE", device.name() + " has queues of less than " +
                                                         std::to_string(kReceiveDepthMin) + " entries");
  }
  queues.sendDepth = depth;
  queues.receiveDepth = depth;

  const size_t bytes = kSendRingBytes + size_t{depth} * Queues::kSlotStride;
  queues.memory = Mapping(bytes);
  if (queues.memory.bytes().empty()) return unavailable("cannot map the buffers of a link", errno);
  queues.region.reset(
      verbs().regMr(parts.pd.get(), queues.memory.bytes().data(), bytes, IBV_ACCESS_LOCAL_WRITE));
  if (!queues.region) {
    return unavailable("cannot register " + std::to_string(bytes) + " bytes of link buffers with " +
                           device.name() +
                           " (raise the locked-memory limit, `ulimit -l`, or lower verbs.queueDepth)",
                       errno);
  }
  queues.channel.reset(verbs().createCompChannel(parts.context.get()));
  if (!queues.channel) return unavailable("cannot make a completion channel on " + device.name(), errno);
  const int events = queues.channel->fd;
  if (::fcntl(events, F_SETFL, ::fcntl(events, F_GETFL) | O_NONBLOCK) != 0) {
    return unavailable("cannot watch the completions of " + device.name(), errno);
  }
  queues.cq.reset(
      verbs().createCq(parts.context.get(), static_cast<int>(2 * depth), nullptr, queues.channel.get(), 0));
  if (!queues.cq) return unavailable("cannot make a completion queue on " + device.name(), errno);

  ibv_qp_init_attr init{};
  init.send_cq = queues.cq.get();
  init.recv_cq = queues.cq.get();
  init.qp_type = IBV_QPT_RC;
  init.cap.max_send_wr = depth;
  init.cap.max_recv_wr = depth;
  init.cap.max_send_sge = 1;
  init.cap.max_recv_sge = 1;
  // No query tells how much a device can send inline: ask for less until it agrees.
  for (uint32_t wanted = device.settings().inlineBytes;; wanted /= 2) {
    ibv_qp_init_attr attempt = init;
    attempt.cap.max_inline_data = wanted;
    queues.qp.reset(verbs().createQp(parts.pd.get(), &attempt));
    if (queues.qp) {
      queues.inlineBytes = attempt.cap.max_inline_data;
      break;
    }
    if (wanted == 0) return unavailable("cannot make a queue pair on " + device.name(), errno);
  }

  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.port_num = static_cast<uint8_t>(device.choice().port);
  attributes.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
  const int failed = verbs().modifyQp(queues.qp.get(), &attributes,
                                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  if (failed != 0) return unavailable("cannot set up a queue pair on " + device.name(), failed);

  queues.receiveParts.resize(depth);
  queues.receiveRequests.resize(depth);
  for (uint32_t i = 0; i < depth; ++i) {
    queues.receiveParts[i] = {reinterpret_cast<uint64_t>(queues.slot(i).data()), kSlotBytes,
                              queues.region->lkey};
    ibv_recv_wr& request = queues.receiveRequests[i];
    request.wr_id = kReceiveMark | i;
    request.sg_list = &queues.receiveParts[i];
    request.num_sge = 1;
    request.next = i + 1 < depth ? &queues.receiveRequests[i + 1] : nullptr;
  }
  if (!queues.postReceives(&queues.receiveRequests[0])) return unavailable("cannot post receives", errno);
  return queues;
}

Result<void> readyToReceive(Queues& queues, const Device& device, const Endpoint& peer,
                            uint32_t pathMtuBytes) {
  const VerbsSettings& settings = device.settings();
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_RTR;
  attributes.path_mtu = mtuOf(pathMtuBytes);
  attributes.dest_qp_num = peer.queuePair;
  attributes.rq_psn = peer.packetSequence;
  attributes.max_dest_rd_atomic = 1;
  attributes.min_rnr_timer = 12;  // 0.64 ms
  ibv_ah_attr& address = attributes.ah_attr;
  address.is_global = 1;
  std::memcpy(&address.grh.dgid, peer.gid.data(), peer.gid.size());
  address.grh.sgid_index = static_cast<uint8_t>(device.choice().gid.index);
  address.grh.hop_limit = 64;
  address.grh.traffic_class = static_cast<uint8_t>(settings.trafficClass);
  address.dlid = peer.lid;
  address.sl = static_cast<uint8_t>(settings.serviceLevel);
  address.port_num = static_cast<uint8_t>(device.choice().port);
  const int failed = verbs().modifyQp(queues.qp.get(), &attributes,
                                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                          IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
  if (failed != 0) return unavailable("cannot direct " + device.name() + " to " + textOf(peer.gid), failed);
  return {};
}

Result<void> readyToSend(Queues& queues, const Device& device, uint32_t packetSequence) {
  const VerbsSettings& settings = device.settings();
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_RTS;
  attributes.timeout = static_cast<uint8_t>(settings.ackTimeoutExponent);
  attributes.retry_cnt = static_cast<uint8_t>(settings.retryCount);
  attributes.rnr_retry = static_cast<uint8_t>(settings.rnrRetry);
  attributes.sq_psn = packetSequence;
  attributes.max_rd_atomic = 1;
  const int failed = verbs().modifyQp(queues.qp.get(), &attributes,
                                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
  if (failed != 0) return unavailable("cannot start the queue pair on " + device.name(), failed);
  return {};
}

}  // namespace walship

#endif

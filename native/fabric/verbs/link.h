// The verbs side of Link: a reliable connection whose ranges are RDMA WRITEs WITH IMMEDIATE and whose
// messages are SENDs, inline where they fit. Both use a receive buffer of the peer, so one credit each, and
// arrive in posting order.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "fabric/link.h"
#include "fabric/verbs/credits.h"
#include "fabric/verbs/queues.h"

#if WALSHIP_HAVE_VERBS

namespace walship {

class VerbsLink final : public Link {
 public:
  // `queues` has carried the ping of the set-up and all its receives are posted.
  static Result<std::unique_ptr<Link>> make(std::shared_ptr<Device> device, Queues queues, Fd control,
                                            const Endpoint& peer, uint32_t pathMtuBytes);
  ~VerbsLink() override;

  Rail rail() const override { return rail_; }
  const LinkCounters& counters() const override { return counters_; }

  RemotePage expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) override;
  void forget(uint32_t grantId) override;

  bool ship(Bytes range, uint32_t grantId, const RemotePage& page, uint32_t offset) override;

  bool send(Bytes message) override;
  void flush() override;
  bool poll() override;
  bool arm() override;
  bool polls() const override { return true; }
  std::vector<int> fds() const override;

 private:
  static constexpr int kBatch = 32;

  // What is free again once a request is complete.
  struct Sent {
    uint64_t shippedRanges;
    uint64_t ringHead;
  };
  struct Grant {
    bool open;
    uint32_t filled;
    uint32_t pageBytes;
  };

  VerbsLink(std::shared_ptr<Device> device, Queues queues, Fd control, Fd deviceEvents, const Endpoint& peer,
            uint32_t pathMtuBytes);

  // Sending: requests are queued under a running number, posted in one chain, completed in order.
  ibv_send_wr* nextRequest(uint32_t reserve);
  std::byte* ringSpace(uint32_t bytes);
  bool queueMessage(MessageKind kind, Bytes message, uint32_t reserve);
  void giveCreditsBack(ibv_send_wr& first);
  void completed(uint64_t request);

  // Receiving.
  void takeBatch(int count);
  void received(const ibv_wc& completion);
  void landed(const Immediate& immediate, uint32_t length);
  void messageCame(Bytes bytes);
  void postAgain(uint64_t slot);
  void returnCredits();

  // The end.
  void watchSides();
  void violated(const std::string& what);
  void broke(const ibv_wc& completion);
  void fail(const char* code, const std::string& what);
  bool reportDown();

  std::shared_ptr<Device> device_;
  Alarm alarm_;
  Queues queues_;
  Fd control_;
  Fd deviceEvents_;  // a copy of the device's own, so that every link can be woken by it
  Rail rail_;
  LinkCounters counters_;
  Credits credits_;

  std::vector<ibv_send_wr> requests_;
  std::vector<ibv_sge> parts_;
  std::vector<Sent> sent_;
  uint64_t queued_ = 0;
  uint64_t posted_ = 0;
  uint64_t completed_ = 0;
  uint64_t reportedRanges_ = 0;
  uint64_t ringHead_ = 0;  // running byte counts; the ring holds [ringTail_, ringHead_)
  uint64_t ringTail_ = 0;
  bool roomWanted_ = false;  // a call was refused for want of completions

  std::deque<Grant> grants_;  // of firstGrant_ and those after it
  uint32_t firstGrant_ = 1;

  ibv_wc batch_[kBatch];
  int held_ = 0;                         // completions that arm() found, for the next poll()
  ibv_recv_wr* receiveFirst_ = nullptr;  // to be posted again at the end of poll()
  ibv_recv_wr* receiveLast_ = nullptr;
  uint32_t receiveCount_ = 0;

  bool armed_ = false;
  uint32_t eventsToAck_ = 0;
  uint32_t pollsSinceClock_ = 0;
  uint64_t sidesWatchedNs_ = 0;
  bool sidesDue_ = false;
  bool peerGone_ = false;
  bool down_ = false;
  std::optional<Error> failure_;  // found, and not yet told to the handler
};

}  // namespace walship

#endif

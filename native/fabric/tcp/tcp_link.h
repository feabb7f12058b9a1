// Link over one TCP connection: the same ranges and messages, each behind a small wire header. Bytes of a range are
// received straight into the granted page; ranges are sent straight from the arena.
#pragma once

#include <deque>

#include "base/fd.h"
#include "fabric/link.h"

namespace walship {

struct TcpWireHeader {
  uint8_t type;  // 1 range, 2 message
  uint8_t zero[3];
  uint32_t length;   // bytes that follow
  uint32_t grantId;  // range only
  uint32_t offset;   // range only: where in the granted page
};
static_assert(sizeof(TcpWireHeader) == 16);

class TcpLink final : public Link {
 public:
  // `fd`: connected, authenticated, nonblocking.
  explicit TcpLink(Fd fd);

  Rail rail() const override { return rail_; }
  const LinkCounters& counters() const override { return counters_; }
  uint64_t retransmits() const override;
  RemotePage expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) override;
  void forget(uint32_t grantId) override;
  bool ship(Bytes range, uint32_t grantId, const RemotePage& page, uint32_t offset) override;
  bool send(Bytes message) override;
  void flush() override;
  bool poll() override;
  bool arm() override;
  bool polls() const override { return false; }
  std::vector<int> fds() const override { return {fd_.get()}; }

 private:
  struct Outgoing {
    TcpWireHeader header;
    Bytes range;                   // of the arena, pinned by the caller; empty for a message
    std::vector<std::byte> message;
    size_t sent = 0;               // of header and body together
  };
  struct Expected {
    uint32_t grantId;
    std::byte* page;
    uint32_t offset;
    uint32_t pageBytes;
  };

  bool pushOut();
  bool takeIn();
  bool parse();
  bool beginRange(const TcpWireHeader& header);
  void landed(size_t bytes);
  void fail(const char* code, const std::string& what);

  Fd fd_;
  Rail rail_;
  LinkCounters counters_;

  std::deque<Outgoing> out_;
  size_t rangesQueued_ = 0;
  bool blocked_ = false;  // the socket's buffer is full: wait for an event
  uint64_t rangesSent_ = 0;
  uint64_t rangesReported_ = 0;

  std::vector<std::byte> staging_;  // received, not yet parsed: [begin, end)
  size_t stagingBegin_ = 0;
  size_t stagingEnd_ = 0;
  std::vector<Expected> expected_;
  uint32_t rangeGrant_ = 0;
  uint32_t rangeLength_ = 0;
  std::byte* rangeTarget_ = nullptr;
  size_t rangeLeft_ = 0;

  bool down_ = false;      // nothing is sent or received any more
  bool reported_ = false;
  Error error_;
};

}  // namespace walship

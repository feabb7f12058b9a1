// A link: an authenticated connection between two nodes for one direction of shipping, over one rail. The upstream
// ships ranges of its arena pages into pages that the downstream has granted; both sides exchange small messages.
// Two implementations, verbs/ and tcp/, and a bundle of several (bundle.h); nothing above this interface knows which one
// it has.
//
// Threads: after it has been handed to the pump, a link belongs to the pump thread alone: every call below, and every
// call of the handler from inside poll(), happens there.
//
// Ownership of buffers:
// - a range given to ship() stays readable and unchanged until onShipped() covers it or the link is destroyed;
// - a page given to expect() stays writable until every byte of it has landed, forget() or the link is destroyed;
//   after the destructor returns nothing of the peer's can land in it any more (this is the fence);
// - a message given to send() is copied before send() returns; one given to onMessage() lives until it returns.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace walship {

constexpr uint32_t kMessageBytesMax = 4096;
constexpr size_t kLanesMax = 4;  // of a bundle

// Where a granted page can be written remotely. Zero over TCP.
struct RemotePage {
  uint64_t address = 0;  // of the page's first byte
  uint32_t rkey = 0;
};

struct Rail {
  std::string transport;  // "verbs" or "tcp"
  std::string device;     // "rxe0/1/1": device/port/GID index; empty over TCP
  std::string local;      // address:port, or GID
  std::string remote;
  uint32_t mtuBytes = 0;  // path MTU over verbs; 0 over TCP
};

struct LinkCounters {
  uint64_t shippedBytes = 0;   // page bytes given to the rail, headers of frames and pages included
  uint64_t shippedRanges = 0;
  uint64_t landedBytes = 0;
  uint64_t messagesSent = 0;
  uint64_t messagesReceived = 0;
  uint64_t wireBytesSent = 0;  // everything, the link's own framing included
  uint64_t doorbells = 0;      // verbs: posts; tcp: sendmsg calls

  void add(const LinkCounters& other) {
    shippedBytes += other.shippedBytes;
    shippedRanges += other.shippedRanges;
    landedBytes += other.landedBytes;
    messagesSent += other.messagesSent;
    messagesReceived += other.messagesReceived;
    wireBytesSent += other.wireBytesSent;
    doorbells += other.doorbells;
  }
};

class LinkHandler {
 public:
  // The next `length` bytes, in order, of the page expected under `grantId` have landed.
  virtual void onLanded(uint32_t grantId, uint32_t length) = 0;
  virtual void onMessage(Bytes message) = 0;
  // The rail no longer reads the ranges of the first `count` ship() calls (counted from 1 since the link was made).
  virtual void onShipped(uint64_t count) = 0;
  // The link is of no use any more; called once, nothing follows. Codes: WALSHIP_ERR_LINK_CLOSED (the peer left),
  // WALSHIP_ERR_LINK_BROKEN (the rail failed; the message says how), WALSHIP_ERR_LINK_PROTOCOL (the peer sent what no
  // walship node sends).
  virtual void onDown(const Error& error) = 0;

 protected:
  ~LinkHandler() = default;
};

class Link {
 public:
  Link() = default;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  virtual ~Link() = default;

  virtual Rail rail() const = 0;
  virtual const LinkCounters& counters() const = 0;
  // Packets that had to be sent again, as far as the system tells it of this link alone; over verbs the device counts.
  virtual uint64_t retransmits() const { return 0; }
  void setHandler(LinkHandler* handler) { handler_ = handler; }

  // ---- downstream side ----
  // Bytes for `grantId` go to `page` (which lies in the registered arena), from `offset` on, up to `pageBytes`; gives how
  // the upstream reaches it. Grant ids grow by one from 1. A range that would pass the page's end or names no expected
  // grant closes the link (WALSHIP_ERR_LINK_PROTOCOL).
  virtual RemotePage expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) = 0;
  virtual void forget(uint32_t grantId) = 0;

  // ---- upstream side ----
  // Queues `range` for the next bytes of the granted page: `offset` is where in the page. false: the queue is full, try
  // again after onShipped(). Ranges of one page are shipped in order, without gaps.
  virtual bool ship(Bytes range, uint32_t grantId, const RemotePage& page, uint32_t offset) = 0;

  // ---- both ----
  // Queues a message (≤ kMessageBytesMax). Messages and ranges of one direction arrive in the order of the calls.
  // false: the queue is full; the caller keeps what it had to say and says it after the next poll().
  virtual bool send(Bytes message) = 0;
  // Gives everything queued to the rail: one doorbell, one sendmsg.
  virtual void flush() = 0;
  // Takes what has arrived or completed and calls the handler. true if there was anything. Bounded work per call.
  // The handler may call ship() and send() from inside, but must not destroy the link.
  virtual bool poll() = 0;
  // Before the pump sleeps: ask for an event on fds(). false: something is there already, poll() again.
  virtual bool arm() = 0;
  // Whether poll() finds news that no event on fds() announces (completion queues); if not, the pump polls on events.
  virtual bool polls() const = 0;
  // Watched by the pump (edge-triggered, in and out) for the whole life of the link; any event means poll().
  virtual std::vector<int> fds() const = 0;

 protected:
  LinkHandler* handler_ = nullptr;
};

}  // namespace walship

// What two nodes say to each other over a link. Pure encoding and decoding; every decoder refuses what it does not
// know, with WALSHIP_ERR_LINK_PROTOCOL, and never trusts a count or a length.
//
//   downstream → upstream   Offer      where my log ends: the hand-shake begins
//   upstream → downstream   Answer     accept (shipping begins there), cut (truncate, then offer again), or refuse
//   downstream → upstream   Grants     pages of mine that you may write into
//   downstream → upstream   Ack        positions of me and of everything below me
//   downstream → upstream   Describe   who a node of my subtree is (once per node, before its first Ack)
//   downstream → upstream   Horizon    what readers of my subtree may still have to see, when it changes
//   upstream → downstream   Heartbeat  epoch and where it began, tail, commit position, time
//   both ways               PageQuery  what copies of pages you have on disk, or some bytes of one; one at a time
//   both ways               PageReply  the answer to it
//
// On a link that is parked (parked.h), until an Offer or a Bind makes it part of a session:
//   both ways               Probe      how long does it take, and: I am there
//   upstream → downstream   Rails      by which ways I can be reached, once, before anything else
//   downstream → upstream   Bind       this link is to be one lane of several for one session
//   upstream → downstream   Lost       the link of your session is gone, as seen from here
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/wire.h"
#include "fabric/link.h"
#include "log/copy.h"
#include "log/history.h"
#include "log/page.h"

namespace walship {

constexpr size_t kSubtreeNodesMax = 100;   // an Ack must fit kMessageBytesMax
constexpr size_t kHistorySentMax = 128;    // newest epochs
constexpr size_t kGrantsPerMessageMax = 128;
constexpr size_t kCopiesPerReplyMax = 96;
constexpr size_t kPageChunkBytesMax = 3968;  // of a page, in one reply
constexpr size_t kRailsMax = 16;             // of one node

struct Offer {
  uint64_t session = 0;    // of the sender's, told apart from those before it
  bool hasLog = false;
  LogPosition tail;
  uint64_t promisedEpoch = 0;
  uint64_t protectedLsn = 0;
  uint32_t pageBytes = 0;
  uint32_t segmentPages = 0;
  EpochHistory history;
};

enum class AnswerKind : uint8_t { accept = 1, cut = 2, refuse = 3 };

struct Answer {
  AnswerKind kind = AnswerKind::refuse;
  uint64_t epoch = 0;      // the newest whose beginning the upstream knows
  uint64_t epochFirstLsn = 0;  // where it began
  LogPosition start;       // accept: shipping begins here; cut: start.lsn is where the logs can agree
  uint64_t committedLsn = 0;
  uint64_t protectedLsn = 0;
  EpochHistory history;
  std::string code;        // refuse
  std::string message;
};

struct Grant {
  uint32_t id = 0;
  uint64_t page = 0;
  uint32_t offset = 0;     // where the first range goes
  RemotePage remote;
};

struct Positions {
  uint64_t received = 0;
  uint64_t flushed = 0;
  uint64_t applied = 0;
  bool operator==(const Positions&) const = default;
};

struct AckEntry {
  uint64_t nodeKey = 0;
  uint64_t epoch = 0;      // the node's log epoch: the one in which it vouches for these positions
  Positions positions;
};

struct Ack {
  uint64_t echoNs = 0;     // `sentNs` of the newest heartbeat taken, 0 if none since the last ack: gives the round trip
  uint64_t sentNs = 0;     // sender's monotonic clock, echoed in heartbeats
  std::vector<AckEntry> entries;  // the first is the sender itself
};

struct Describe {
  uint64_t nodeKey = 0;
  uint64_t parentKey = 0;
  std::string node;
  std::string transport;
  std::string device;
  std::string local;
  std::string remote;
};

// The oldest transactions whose effects somebody may still have to see, as the database that is shipped numbers them; 0:
// none. Nobody needs anything older than the older of two.
struct Horizon {
  uint64_t rows = 0;
  uint64_t catalog = 0;
  bool operator==(const Horizon&) const = default;

  void include(const Horizon& other) {
    const auto older = [](uint64_t one, uint64_t two) { return one == 0 || two == 0 ? std::max(one, two) : std::min(one, two); };
    rows = older(rows, other.rows);
    catalog = older(catalog, other.catalog);
  }
};

enum class CommitLevel : uint8_t { async, received, flushed, applied };

struct Heartbeat {
  uint64_t epoch = 0;
  uint64_t epochFirstLsn = 0;  // where it began: whoever has received that much has its whole log from it
  uint64_t tailLsn = 0;
  uint64_t committedLsn = 0;
  uint64_t protectedLsn = 0;  // committed by a synchronous rule: no node cuts its log below this
  uint64_t sentNs = 0;     // sender's monotonic clock, echoed
  CommitLevel awaited = CommitLevel::async;  // the position the commit rule waits for: what is worth an ack at once
  uint64_t echoNs = 0;     // `sentNs` of the newest ack taken, 0 if none: this was sent after it
  uint64_t ageNs = 0;      // all that the primary had made so long ago is below tailLsn; 0 from the primary; or kNotKnown
};

enum class PageQuestion : uint8_t { copies = 1, bytes = 2 };

struct PageQuery {
  uint32_t id = 0;
  PageQuestion question = PageQuestion::copies;
  uint64_t page = 0;    // copies: the first one
  uint32_t offset = 0;  // bytes: in the page
  uint32_t count = 1;   // of pages, at most kCopiesPerReplyMax; or of bytes, at most kPageChunkBytesMax
};

struct PageReply {
  uint32_t id = 0;  // of the query
  PageQuestion question = PageQuestion::copies;
  std::vector<PageCopy> copies;  // of as many pages as asked for
  Buffer bytes;                  // as many as asked for; none: this node has no such page
};

struct Probe {
  uint64_t sentNs = 0;  // on the clock of whoever asks
  bool answer = false;
  uint64_t retransmits = 0;  // of this link, as its sender counts them
};

// An address that a node listens on, and what is known of the way there.
struct RailEnd {
  std::string host;        // numeric
  uint16_t port = 0;       // of its TCP listener, where RDMA is set up too
  std::string device;      // RDMA device with the GID of that address; empty: TCP only
  uint32_t speedMbps = 0;  // 0: not known
  uint32_t mtuBytes = 0;
  int16_t numaNode = -1;   // of the network device; -1: not known
  bool operator==(const RailEnd&) const = default;
};

struct Rails {
  std::vector<RailEnd> ends;
};

struct Bind {
  uint64_t session = 0;  // that of the Offer, which follows over the first lane
  uint8_t lane = 0;
  uint8_t lanes = 0;
};

struct Lost {
  uint64_t session = 0;
};

Buffer encode(const Probe& probe);
Buffer encode(const Rails& rails);
Buffer encode(const Bind& bind);
Buffer encode(const Lost& lost);
Buffer encode(const Offer& offer);
Buffer encode(const Answer& answer);
Buffer encode(const std::vector<Grant>& grants);
Buffer encode(const Ack& ack);
Buffer encode(const Describe& describe);
Buffer encode(const Heartbeat& heartbeat);
Buffer encode(const Horizon& horizon);
Buffer encode(const PageQuery& query);
Buffer encode(const PageReply& reply);

using Message = std::variant<Offer, Answer, std::vector<Grant>, Ack, Describe, Heartbeat, Horizon, PageQuery, PageReply,
                             Probe, Rails, Bind, Lost>;
Result<Message> decodeMessage(Bytes bytes);

}  // namespace walship

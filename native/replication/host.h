// What the two kinds of session need of the node they live in. Implemented by the pump; pump thread only.
#pragma once

#include <functional>
#include <string>

#include "replication/freshness.h"
#include "replication/messages.h"
#include "replication/store.h"
#include "replication/tree.h"

namespace walship {

struct SessionSettings {
  uint32_t heartbeatMs = 20;
  uint32_t linkTimeoutMs = 1000;
  uint32_t grantPages = 16;          // pages granted to the upstream in advance
  uint32_t readAheadPages = 4;       // pages loaded in advance for a lagging downstream
  uint32_t rangeBytesMax = 128u << 10;
  uint32_t probeMs = 50;             // how often a parked link is probed
  uint32_t railSilenceMs = 100;      // a session's link that is silent for so long is given up, if another link to the same
                                     // node is not
};

class SessionHost {
 public:
  virtual Store& store() = 0;
  virtual Tree& tree() = 0;
  virtual const SessionSettings& settings() const = 0;
  virtual uint64_t nodeKey() const = 0;
  virtual const std::string& nodeId() const = 0;
  virtual bool isPrimary() const = 0;
  virtual EpochStart reign() const = 0;       // the newest epoch of whose primary's log this node's is known to be a part
  virtual uint64_t committedLsn() const = 0;
  virtual uint64_t protectedLsn() const = 0;  // committed by a synchronous rule: the log is never cut below
  virtual bool discardCommitted() const = 0;  // but an operator has said that it may be, this once
  virtual uint64_t appliedLsn() const = 0;
  virtual Horizon horizon() const = 0;        // of this node's readers and of those below it
  virtual CommitLevel awaitedLevel() const = 0;  // of the primary's commit rule, as far as known here
  // Has the page read into the arena; every session's onPage() is called when it is there or cannot be had.
  virtual void requestLoad(uint64_t page) = 0;
  // Has a neighbour's question about pages answered, elsewhere; `done` is called on the pump.
  virtual void answerPages(const PageQuery& query, std::function<void(const PageReply&)> done) = 0;
  // Something came from the upstream.
  virtual void upstreamSpoke(uint64_t nowNs) = 0;
  // The log is kept from here on for a downstream: told before it has said anything itself, so that what it is promised is
  // not trimmed under it.
  virtual void keepFor(const std::string& node, uint64_t lsn) = 0;
  // The upstream says by which ways it can be reached.
  virtual void heardRails(Rails rails) = 0;
  // The upstream, of whose log this node's is a prefix, says where it stands.
  virtual void heardFromUpstream(const Heartbeat& heartbeat) = 0;
  // All that the primary had made so long ago is in this node's memory: 0 on the primary; or kNotKnown.
  virtual uint64_t ageNs(uint64_t nowNs) const = 0;
  // Ends every downstream session: they hold pages of the tail, which is about to go. They come back with new offers.
  virtual void dropDownstreams(const std::string& why) = 0;
  // The log is about to be cut back: ends every downstream session (they hold its pages).
  virtual void beforeCut(const LogPosition& to) = 0;
  // It has been, if `done`; or it could not be.
  virtual void afterCut(const LogPosition& from, const LogPosition& to, bool done) = 0;
  virtual void event(const char* type, const std::string& node, const Error& detail) = 0;

 protected:
  ~SessionHost() = default;
};

}  // namespace walship

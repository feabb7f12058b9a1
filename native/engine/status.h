// What can be asked of an engine at any time: a snapshot that the pump renews, read without disturbing it, and counters
// in memory that JavaScript views.
#pragma once

#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "base/histogram.h"
#include "fabric/link.h"
#include "log/history.h"
#include "replication/freshness.h"
#include "replication/messages.h"

namespace walship {

// Shared with JavaScript as a BigUint64Array: the order is part of src/engine/counters.ts.
enum Counter : uint32_t {
  kReceivedLsn, kFlushedLsn, kAppliedLsn, kCommittedLsn, kEndLsn, kEpoch, kIsPrimary,
  kAppends, kAppendBytes, kBatches, kSyncs, kJsWakes, kPumpRounds, kPumpSleeps, kStarved,
  kLogEpoch, kPromisedEpoch, kUpstreamHeardNs,
  kAwaited,  // written by JavaScript: not 0 while somebody there waits for a position
  kReceivedAsOfNs, kAppliedAsOfNs,
  kCounters
};
using Counters = std::array<std::atomic<uint64_t>, kCounters>;

struct LinkStatus {
  std::string node;
  std::string direction;  // "upstream" or "downstream"
  bool streaming = false;
  Rail rail;
  LinkCounters counters;
  uint64_t roundTripP50Ns = 0;
  uint64_t roundTripP99Ns = 0;
};

struct NodeStatus {
  std::string node;
  std::string parent;
  uint64_t epoch = 0;  // in which it vouches for its positions
  Positions positions;
  uint64_t lagBytes = 0;
  uint64_t lagMs = 0;         // since the first byte it has not received was made; kNotKnown
  uint64_t appliedLagMs = 0;  // … not applied
  uint64_t heardMsAgo = 0;
  bool stalled = false;
  Rail rail;
};

// A rail to the upstream.
struct RailStatus {
  std::string name;
  bool carries = false;  // the session
  bool spare = false;    // a link is up beside it, and is probed
  uint64_t roundTripNs = 0;  // median of the last probes that count; 0: not known
  uint64_t heardMsAgo = 0;   // over the spare link
  uint64_t retransmits = 0;  // of the spare link, by both sides
  uint64_t failures = 0;     // of links that carried the session
  Error problem;             // why there is no link
};

struct StatusSnapshot {
  std::vector<RailStatus> rails;
  std::string railsNode;         // the upstream that they lead to
  std::vector<RailEnd> railEnds; // by which it can be reached, as it says
  std::vector<LinkStatus> links;
  std::vector<NodeStatus> nodes;
  EpochHistory history;  // the newest epochs of this log
  uint64_t upstreamTailLsn = 0;
  uint64_t upstreamHeardMsAgo = 0;
  bool ruleFailing = false;
  std::string storageProblem;
};

// Changes that an operator would want to know of.
struct EngineEvent {
  std::string type;
  std::string node;
  std::string code;     // WALSHIP_ERR_… or empty
  std::string message;
  uint64_t lsn = 0;
};

struct Histograms {
  Histogram commitNs;   // append → committed
  Histogram flushNs;    // append → flushed by the primary itself
  Histogram syncNs;     // one write and sync
};

}  // namespace walship

// Everything an engine is opened with. Validated in TypeScript (src/engine/options.ts); asserted here.
#pragma once

#include "cache/arena.h"
#include "fabric/setup.h"
#include "log/log.h"
#include "replication/commit_rule.h"
#include "replication/host.h"
#include "replication/store.h"

namespace walship {

enum class CompletionMode : uint8_t { busy, event, adaptive };

struct EngineSettings {
  LogSettings log;
  SyncSettings sync;
  uint32_t arenaSlots = 256;
  bool hugePages = false;
  uint32_t frameBytesMax = 64u << 10;

  std::string nodeId;
  std::string cluster;
  std::string secret;
  std::vector<Address> listen;
  std::vector<RailEnd> railEnds;  // told to downstreams; port 0: that of the listener of the same place, or the first
  uint8_t transports = kTransportTcp;
  VerbsSettings verbs;
  uint32_t setupTimeoutMs = 3000;
  uint32_t reconnectMsMin = 50;
  uint32_t reconnectMsMax = 2000;
  SessionSettings session;

  CommitRule commitRule;
  bool appliedByHand = false;    // false: `applied` follows `flushed`
  uint32_t stallMs = 2000;       // a node behind whose position has not moved for so long is stalled
  uint32_t ruleMs = 1000;        // an append not committed for so long means that the rule fails

  CompletionMode completion = CompletionMode::adaptive;
  uint32_t spinUs = 20;          // adaptive: how long the pump polls before it sleeps
  uint32_t wakeWindowUs = 100;   // under load JavaScript is woken at most this often
};

}  // namespace walship

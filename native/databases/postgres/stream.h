// What travels inside a physical replication stream, in CopyData messages. Pure.
//
//   server → standby   w  start LSN u64, end of WAL u64, time u64, bytes
//                      k  end of WAL u64, time u64, reply wanted u8
//   standby → server   r  written, flushed, applied u64 each, time u64, reply wanted u8
//                      h  time u64, xmin u32, epoch u32, catalog xmin u32, epoch u32
//
// Positions are those of the byte behind the last one; times are µs since 2000-01-01.
#pragma once

#include <variant>

#include "base/result.h"
#include "databases/postgres/wire.h"
#include "replication/messages.h"

namespace walship::postgres {

struct WalData {
  uint64_t startLsn = 0;
  uint64_t endLsn = 0;  // of the WAL that the server has
  uint64_t timeUs = 0;
  Bytes bytes;          // of the message that was parsed
};
constexpr size_t kWalDataHeaderBytes = 25;

struct KeepAlive {
  uint64_t endLsn = 0;
  uint64_t timeUs = 0;
  bool replyWanted = false;
};
using ServerMessage = std::variant<WalData, KeepAlive>;

struct StandbyStatus {
  uint64_t written = 0;
  uint64_t flushed = 0;
  uint64_t applied = 0;  // 0: not known
  uint64_t timeUs = 0;
  bool replyWanted = false;
};

struct HotStandbyFeedback {
  uint64_t timeUs = 0;
  uint32_t xmin = 0;  // 0: none
  uint32_t xminEpoch = 0;
  uint32_t catalogXmin = 0;
  uint32_t catalogXminEpoch = 0;
};
// Transactions with their epoch in front, so that the older one is the smaller one.
Horizon horizonOf(const HotStandbyFeedback& feedback);
HotStandbyFeedback feedbackOf(const Horizon& horizon);
using StandbyMessage = std::variant<StandbyStatus, HotStandbyFeedback>;

// WALSHIP_ERR_POSTGRES_PROTOCOL: an unknown or truncated message, or one with bytes left over.
Result<ServerMessage> parseServerMessage(Bytes message);
Result<StandbyMessage> parseStandbyMessage(Bytes message);

void encode(Buffer& out, const KeepAlive& message);
void encode(Buffer& out, const StandbyStatus& message);
void encode(Buffer& out, const HotStandbyFeedback& message);
// The bytes of the WAL follow.
void encodeHeader(Buffer& out, const WalData& message);

// PostgreSQL's clock.
uint64_t postgresUs();

}  // namespace walship::postgres

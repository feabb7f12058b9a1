#include "databases/postgres/stream.h"

#include "base/clock.h"

namespace walship::postgres {

namespace {

// From 1970-01-01 to 2000-01-01.
constexpr uint64_t kEpochUs = 946'684'800'000'000;
constexpr uint32_t kFirstTransaction = 3;  // below are the special ones

Error malformed(const char* from, Bytes message) {
  const auto type = message.empty() ? 0u : std::to_integer<unsigned>(message[0]);
  return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL",
                   std::string("the ") + from + " sent a replication message that cannot be understood (type " +
                       std::to_string(type) + ", " + std::to_string(message.size()) + " bytes)");
}

}  // namespace

uint64_t postgresUs() { return wallUs() - kEpochUs; }

Horizon horizonOf(const HotStandbyFeedback& feedback) {
  const auto full = [](uint32_t epoch, uint32_t xmin) {
    return xmin < kFirstTransaction ? 0 : uint64_t{epoch} << 32 | xmin;
  };
  return {full(feedback.xminEpoch, feedback.xmin), full(feedback.catalogXminEpoch, feedback.catalogXmin)};
}

HotStandbyFeedback feedbackOf(const Horizon& horizon) {
  const auto low = [](uint64_t full) { return static_cast<uint32_t>(full); };
  const auto high = [](uint64_t full) { return static_cast<uint32_t>(full >> 32); };
  return {postgresUs(), low(horizon.rows), high(horizon.rows), low(horizon.catalog), high(horizon.catalog)};
}

Result<ServerMessage> parseServerMessage(Bytes message) {
  BigReader reader(message);
  uint8_t type = 0;
  if (!reader.take(type)) return malformed("server", message);
  if (type == 'w') {
    WalData data;
    if (!reader.take(data.startLsn) || !reader.take(data.endLsn) || !reader.take(data.timeUs)) {
      return malformed("server", message);
    }
    data.bytes = reader.rest();
    if (data.bytes.size() > UINT64_MAX - data.startLsn) return malformed("server", message);
    return ServerMessage(data);
  }
  KeepAlive keepAlive;
  uint8_t replyWanted = 0;
  if (type != 'k' || !reader.take(keepAlive.endLsn) || !reader.take(keepAlive.timeUs) || !reader.take(replyWanted) ||
      !reader.done()) {
    return malformed("server", message);
  }
  keepAlive.replyWanted = replyWanted != 0;
  return ServerMessage(keepAlive);
}

Result<StandbyMessage> parseStandbyMessage(Bytes message) {
  BigReader reader(message);
  uint8_t type = 0;
  if (!reader.take(type)) return malformed("standby", message);
  if (type == 'r') {
    StandbyStatus status;
    uint8_t replyWanted = 0;
    if (!reader.take(status.written) || !reader.take(status.flushed) || !reader.take(status.applied) ||
        !reader.take(status.timeUs) || !reader.take(replyWanted) || !reader.done()) {
      return malformed("standby", message);
    }
    status.replyWanted = replyWanted != 0;
    return StandbyMessage(status);
  }
  HotStandbyFeedback feedback;
  if (type != 'h' || !reader.take(feedback.timeUs) || !reader.take(feedback.xmin) || !reader.take(feedback.xminEpoch) ||
      !reader.take(feedback.catalogXmin) || !reader.take(feedback.catalogXminEpoch) || !reader.done()) {
    return malformed("standby", message);
  }
  return StandbyMessage(feedback);
}

void encode(Buffer& out, const KeepAlive& message) {
  out.push_back(std::byte{'k'});
  putBig(out, message.endLsn);
  putBig(out, message.timeUs);
  putBig(out, static_cast<uint8_t>(message.replyWanted));
}

void encode(Buffer& out, const StandbyStatus& message) {
  out.push_back(std::byte{'r'});
  putBig(out, message.written);
  putBig(out, message.flushed);
  putBig(out, message.applied);
  putBig(out, message.timeUs);
  putBig(out, static_cast<uint8_t>(message.replyWanted));
}

void encode(Buffer& out, const HotStandbyFeedback& message) {
  out.push_back(std::byte{'h'});
  putBig(out, message.timeUs);
  putBig(out, message.xmin);
  putBig(out, message.xminEpoch);
  putBig(out, message.catalogXmin);
  putBig(out, message.catalogXminEpoch);
}

void encodeHeader(Buffer& out, const WalData& message) {
  out.push_back(std::byte{'w'});
  putBig(out, message.startLsn);
  putBig(out, message.endLsn);
  putBig(out, message.timeUs);
}

}  // namespace walship::postgres

#include "replication/messages.h"

namespace walship {

namespace {

enum MessageType : uint8_t {
  kOffer = 1,
  kAnswer = 2,
  kGrants = 3,
  kAck = 4,
  kDescribe = 5,
  kHeartbeat = 6,
  kHorizon = 7,
  kPageQuery = 8,
  kPageReply = 9,
  kProbe = 10,
  kRails = 11,
  kBind = 12,
  kLost = 13,
};

Buffer begin(MessageType type) {
  Buffer out;
  putValue(out, static_cast<uint8_t>(type));
  return out;
}

void putPosition(Buffer& out, const LogPosition& position) {
  putValue(out, position.lsn);
  putValue(out, position.headerChecksum);
  putValue(out, position.epoch);
  putValue(out, position.page);
  putValue(out, position.offset);
}

bool take(WireReader& reader, LogPosition& position) {
  return reader.take(position.lsn) && reader.take(position.headerChecksum) && reader.take(position.epoch) &&
         reader.take(position.page) && reader.take(position.offset) && position.offset <= kPageBytesMax;
}

void putHistory(Buffer& out, const EpochHistory& history) {
  const size_t count = std::min(history.size(), kHistorySentMax);
  putValue(out, static_cast<uint16_t>(count));
  for (size_t i = history.size() - count; i < history.size(); ++i) {
    putValue(out, history[i].epoch);
    putValue(out, history[i].firstLsn);
  }
}

bool take(WireReader& reader, EpochHistory& history) {
  uint16_t count = 0;
  if (!reader.take(count) || count > kHistorySentMax) return false;
  for (uint16_t i = 0; i < count; ++i) {
    EpochStart start;
    if (!reader.take(start.epoch) || !reader.take(start.firstLsn)) return false;
    if (!history.empty() && (start.epoch <= history.back().epoch || start.firstLsn < history.back().firstLsn)) return false;
    history.push_back(start);
  }
  return true;
}

bool take(WireReader& reader, Offer& offer) {
  uint8_t hasLog = 0;
  if (!reader.take(offer.session) || !reader.take(hasLog) || hasLog > 1 || !take(reader, offer.tail) || !reader.take(offer.promisedEpoch) ||
      !reader.take(offer.protectedLsn) || !reader.take(offer.pageBytes) || !reader.take(offer.segmentPages)) {
    return false;
  }
  offer.hasLog = hasLog == 1;
  return take(reader, offer.history);
}

bool take(WireReader& reader, Probe& probe) {
  uint8_t answer = 0;
  if (!reader.take(probe.sentNs) || !reader.take(answer) || answer > 1 || !reader.take(probe.retransmits)) return false;
  probe.answer = answer == 1;
  return true;
}

bool take(WireReader& reader, Rails& rails) {
  uint8_t count = 0;
  if (!reader.take(count) || count > kRailsMax) return false;
  for (uint8_t i = 0; i < count; ++i) {
    RailEnd end;
    uint16_t numaNode = 0;
    if (!reader.takeName(end.host, 64) || end.host.empty() || !reader.take(end.port) || !reader.takeName(end.device, 64) ||
        !reader.take(end.speedMbps) || !reader.take(end.mtuBytes) || !reader.take(numaNode)) {
      return false;
    }
    end.numaNode = static_cast<int16_t>(numaNode);
    rails.ends.push_back(std::move(end));
  }
  return true;
}

bool take(WireReader& reader, Bind& bind) {
  return reader.take(bind.session) && reader.take(bind.lane) && reader.take(bind.lanes) && bind.lanes >= 2 &&
         bind.lanes <= kLanesMax && bind.lane < bind.lanes;
}

bool take(WireReader& reader, Lost& lost) { return reader.take(lost.session); }

bool take(WireReader& reader, Answer& answer) {
  uint8_t kind = 0;
  if (!reader.take(kind) || kind < 1 || kind > 3) return false;
  answer.kind = static_cast<AnswerKind>(kind);
  return reader.take(answer.epoch) && reader.take(answer.epochFirstLsn) && take(reader, answer.start) && reader.take(answer.committedLsn) &&
         reader.take(answer.protectedLsn) &&
         take(reader, answer.history) && reader.takeName(answer.code) && reader.takeName(answer.message);
}

bool take(WireReader& reader, std::vector<Grant>& grants) {
  uint16_t count = 0;
  if (!reader.take(count) || count > kGrantsPerMessageMax) return false;
  for (uint16_t i = 0; i < count; ++i) {
    Grant grant;
    if (!reader.take(grant.id) || !reader.take(grant.page) || !reader.take(grant.offset) ||
        !reader.take(grant.remote.address) || !reader.take(grant.remote.rkey) || grant.offset > kPageBytesMax) {
      return false;
    }
    grants.push_back(grant);
  }
  return true;
}

bool take(WireReader& reader, Ack& ack) {
  uint16_t count = 0;
  if (!reader.take(ack.echoNs) || !reader.take(ack.sentNs) || !reader.take(count) || count == 0 || count > kSubtreeNodesMax) return false;
  for (uint16_t i = 0; i < count; ++i) {
    AckEntry entry;
    Positions& positions = entry.positions;
    if (!reader.take(entry.nodeKey) || !reader.take(entry.epoch) || !reader.take(positions.received) || !reader.take(positions.flushed) ||
        !reader.take(positions.applied) || positions.flushed > positions.received) {
      return false;
    }
    ack.entries.push_back(entry);
  }
  return true;
}

bool take(WireReader& reader, Describe& describe) {
  return reader.take(describe.nodeKey) && reader.take(describe.parentKey) && reader.takeName(describe.node, 64) &&
         reader.takeName(describe.transport) && reader.takeName(describe.device) && reader.takeName(describe.local) &&
         reader.takeName(describe.remote);
}

bool take(WireReader& reader, Heartbeat& heartbeat) {
  uint8_t awaited = 0;
  if (!reader.take(heartbeat.epoch) || !reader.take(heartbeat.epochFirstLsn) || !reader.take(heartbeat.tailLsn) || !reader.take(heartbeat.committedLsn) ||
      !reader.take(heartbeat.protectedLsn) || !reader.take(heartbeat.sentNs) || !reader.take(awaited) ||
      !reader.take(heartbeat.echoNs) || !reader.take(heartbeat.ageNs)) {
    return false;
  }
  heartbeat.awaited = static_cast<CommitLevel>(awaited);
  return heartbeat.awaited <= CommitLevel::applied;
}

bool take(WireReader& reader, Horizon& horizon) { return reader.take(horizon.rows) && reader.take(horizon.catalog); }

bool take(WireReader& reader, PageQuestion& question) {
  uint8_t value = 0;
  if (!reader.take(value) || value < 1 || value > 2) return false;
  question = static_cast<PageQuestion>(value);
  return true;
}

bool take(WireReader& reader, PageQuery& query) {
  if (!reader.take(query.id) || !take(reader, query.question) || !reader.take(query.page) || !reader.take(query.offset) ||
      !reader.take(query.count) || query.page > kPageNumberMax || query.count == 0) {
    return false;
  }
  if (query.question == PageQuestion::copies) return query.offset == 0 && query.count <= kCopiesPerReplyMax;
  return query.count <= kPageChunkBytesMax && query.offset <= kPageBytesMax - query.count;
}

bool take(WireReader& reader, PageCopy& copy) {
  uint8_t state = 0;
  if (!reader.take(state) || state > static_cast<uint8_t>(CopyState::stale)) return false;
  copy.state = static_cast<CopyState>(state);
  return reader.take(copy.sum) && reader.take(copy.firstLsn) && reader.take(copy.parent) && reader.take(copy.endLsn) &&
         reader.take(copy.endChecksum);
}

bool take(WireReader& reader, PageReply& reply) {
  uint16_t count = 0;
  if (!reader.take(reply.id) || !take(reader, reply.question) || !reader.take(count)) return false;
  if (reply.question == PageQuestion::bytes) {
    if (count > kPageChunkBytesMax) return false;
    reply.bytes.resize(count);
    return reader.take(MutableBytes(reply.bytes));
  }
  if (count > kCopiesPerReplyMax) return false;
  reply.copies.resize(count);
  return std::ranges::all_of(reply.copies, [&](PageCopy& copy) { return take(reader, copy); });
}

Error malformed(const std::string& what) {
  return makeError("WALSHIP_ERR_LINK_PROTOCOL", "the peer sent a malformed message (" + what + ")");
}

template <class T>
Result<Message> decodeAs(WireReader& reader, const char* name) {
  T message;
  if (!take(reader, message) || !reader.done()) return malformed(name);
  return Message(std::move(message));
}

}  // namespace

Buffer encode(const Offer& offer) {
  Buffer out = begin(kOffer);
  putValue(out, offer.session);
  putValue(out, static_cast<uint8_t>(offer.hasLog ? 1 : 0));
  putPosition(out, offer.tail);
  putValue(out, offer.promisedEpoch);
  putValue(out, offer.protectedLsn);
  putValue(out, offer.pageBytes);
  putValue(out, offer.segmentPages);
  putHistory(out, offer.history);
  return out;
}

Buffer encode(const Answer& answer) {
  Buffer out = begin(kAnswer);
  putValue(out, static_cast<uint8_t>(answer.kind));
  putValue(out, answer.epoch);
  putValue(out, answer.epochFirstLsn);
  putPosition(out, answer.start);
  putValue(out, answer.committedLsn);
  putValue(out, answer.protectedLsn);
  putHistory(out, answer.history);
  putName(out, answer.code);
  putName(out, answer.message);
  return out;
}

Buffer encode(const std::vector<Grant>& grants) {
  WALSHIP_ASSERT(grants.size() <= kGrantsPerMessageMax);
  Buffer out = begin(kGrants);
  putValue(out, static_cast<uint16_t>(grants.size()));
  for (const Grant& grant : grants) {
    putValue(out, grant.id);
    putValue(out, grant.page);
    putValue(out, grant.offset);
    putValue(out, grant.remote.address);
    putValue(out, grant.remote.rkey);
  }
  return out;
}

Buffer encode(const Ack& ack) {
  WALSHIP_ASSERT(!ack.entries.empty() && ack.entries.size() <= kSubtreeNodesMax);
  Buffer out = begin(kAck);
  putValue(out, ack.echoNs);
  putValue(out, ack.sentNs);
  putValue(out, static_cast<uint16_t>(ack.entries.size()));
  for (const AckEntry& entry : ack.entries) {
    putValue(out, entry.nodeKey);
    putValue(out, entry.epoch);
    putValue(out, entry.positions.received);
    putValue(out, entry.positions.flushed);
    putValue(out, entry.positions.applied);
  }
  return out;
}

Buffer encode(const Describe& describe) {
  Buffer out = begin(kDescribe);
  putValue(out, describe.nodeKey);
  putValue(out, describe.parentKey);
  for (const std::string* name :
       {&describe.node, &describe.transport, &describe.device, &describe.local, &describe.remote}) {
    putName(out, *name);
  }
  return out;
}

Buffer encode(const Heartbeat& heartbeat) {
  Buffer out = begin(kHeartbeat);
  putValue(out, heartbeat.epoch);
  putValue(out, heartbeat.epochFirstLsn);
  putValue(out, heartbeat.tailLsn);
  putValue(out, heartbeat.committedLsn);
  putValue(out, heartbeat.protectedLsn);
  putValue(out, heartbeat.sentNs);
  putValue(out, static_cast<uint8_t>(heartbeat.awaited));
  putValue(out, heartbeat.echoNs);
  putValue(out, heartbeat.ageNs);
  return out;
}

Buffer encode(const Horizon& horizon) {
  Buffer out = begin(kHorizon);
  putValue(out, horizon.rows);
  putValue(out, horizon.catalog);
  return out;
}

Buffer encode(const Probe& probe) {
  Buffer out = begin(kProbe);
  putValue(out, probe.sentNs);
  putValue(out, static_cast<uint8_t>(probe.answer));
  putValue(out, probe.retransmits);
  return out;
}

Buffer encode(const Rails& rails) {
  WALSHIP_ASSERT(rails.ends.size() <= kRailsMax);
  Buffer out = begin(kRails);
  putValue(out, static_cast<uint8_t>(rails.ends.size()));
  for (const RailEnd& end : rails.ends) {
    putName(out, end.host);
    putValue(out, end.port);
    putName(out, end.device);
    putValue(out, end.speedMbps);
    putValue(out, end.mtuBytes);
    putValue(out, static_cast<uint16_t>(end.numaNode));
  }
  return out;
}

Buffer encode(const Bind& bind) {
  Buffer out = begin(kBind);
  putValue(out, bind.session);
  putValue(out, bind.lane);
  putValue(out, bind.lanes);
  return out;
}

Buffer encode(const Lost& lost) {
  Buffer out = begin(kLost);
  putValue(out, lost.session);
  return out;
}

Buffer encode(const PageQuery& query) {
  Buffer out = begin(kPageQuery);
  putValue(out, query.id);
  putValue(out, static_cast<uint8_t>(query.question));
  putValue(out, query.page);
  putValue(out, query.offset);
  putValue(out, query.count);
  return out;
}

Buffer encode(const PageReply& reply) {
  WALSHIP_ASSERT(reply.copies.size() <= kCopiesPerReplyMax && reply.bytes.size() <= kPageChunkBytesMax);
  const bool bytes = reply.question == PageQuestion::bytes;
  Buffer out = begin(kPageReply);
  putValue(out, reply.id);
  putValue(out, static_cast<uint8_t>(reply.question));
  putValue(out, static_cast<uint16_t>(bytes ? reply.bytes.size() : reply.copies.size()));
  if (bytes) {
    put(out, reply.bytes);
    return out;
  }
  for (const PageCopy& copy : reply.copies) {
    putValue(out, static_cast<uint8_t>(copy.state));
    for (const uint64_t value : {copy.sum, copy.firstLsn, copy.parent, copy.endLsn, copy.endChecksum}) putValue(out, value);
  }
  return out;
}

Result<Message> decodeMessage(Bytes bytes) {
  WireReader reader(bytes);
  uint8_t type = 0;
  if (!reader.take(type)) return malformed("empty");
  switch (type) {
    case kOffer: return decodeAs<Offer>(reader, "offer");
    case kAnswer: return decodeAs<Answer>(reader, "answer");
    case kGrants: return decodeAs<std::vector<Grant>>(reader, "grants");
    case kAck: return decodeAs<Ack>(reader, "ack");
    case kDescribe: return decodeAs<Describe>(reader, "describe");
    case kHeartbeat: return decodeAs<Heartbeat>(reader, "heartbeat");
    case kHorizon: return decodeAs<Horizon>(reader, "horizon");
    case kPageQuery: return decodeAs<PageQuery>(reader, "page query");
    case kPageReply: return decodeAs<PageReply>(reader, "page reply");
    case kProbe: return decodeAs<Probe>(reader, "probe");
    case kRails: return decodeAs<Rails>(reader, "rails");
    case kBind: return decodeAs<Bind>(reader, "bind");
    case kLost: return decodeAs<Lost>(reader, "lost");
    default: return malformed("type " + std::to_string(type));
  }
}

}  // namespace walship

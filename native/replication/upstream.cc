#include "replication/upstream.h"

#include "base/checksum.h"
#include "base/clock.h"

namespace walship {

namespace {
constexpr size_t kUnsentMax = 256;
constexpr uint64_t kAckDelayNs = 1'000'000;  // of what no commit waits for
constexpr uint32_t kCutsMax = 64;  // an upstream that goes on asking for cuts is not worth following
}  // namespace

UpstreamSession::UpstreamSession(SessionHost& host, std::unique_ptr<Link> link, std::string node, uint64_t number)
    : host_(host), node_(std::move(node)), number_(number), exchange_(host), heardNs_(monotonicNs()), link_(std::move(link)) {
  link_->setHandler(this);
  offer();
}

UpstreamSession::~UpstreamSession() {
  link_.reset();
  while (!ahead_.empty()) {
    host_.store().arena().discard(std::move(ahead_.back().pin));
    ahead_.pop_back();
  }
}

void UpstreamSession::end(Error error) {
  if (!ended_) ended_ = std::move(error);
}

void UpstreamSession::say(Buffer message) {
  if (unsent_.empty() && link_->send(message)) return;
  if (unsent_.size() >= kUnsentMax) return end(makeError("WALSHIP_ERR_LINK_BROKEN", "the upstream takes no messages"));
  unsent_.push_back(std::move(message));
}

// Behind everything else that is to be said.
void UpstreamSession::talkOfPages() {
  exchange_.step([this](const Buffer& message) { return unsent_.empty() && link_->send(message); });
}

bool UpstreamSession::step(uint64_t nowNs) {
  if (ended_) return false;
  const auto& settings = host_.settings();
  if (elapsedNs(heardNs_, nowNs) > uint64_t{settings.linkTimeoutMs} * 1'000'000) {
    end(makeError("WALSHIP_ERR_LINK_TIMEOUT",
                  "nothing heard from '" + node_ + "' for " + std::to_string(settings.linkTimeoutMs) + " ms"));
    return false;
  }
  while (!unsent_.empty() && link_->send(unsent_.front())) unsent_.pop_front();
  if (state_ != State::streaming) return false;
  grantPages();
  const bool ack = (ackDueNs_ <= nowNs && unsent_.empty()) || nowNs - ackSentNs_ >= uint64_t{settings.heartbeatMs} * 1'000'000;
  if (ack) acknowledge(nowNs);
  talkOfPages();
  return ack;
}

void UpstreamSession::offer() {
  Store& store = host_.store();
  const NodeRecord& record = store.record();
  Offer mine;
  mine.session = number_;
  mine.hasLog = !store.empty();
  mine.tail = offered_ = store.received();
  mine.promisedEpoch = record.promisedEpoch;
  mine.protectedLsn = host_.discardCommitted() ? 0 : host_.protectedLsn();
  mine.pageBytes = store.geometry().pageBytes;
  mine.segmentPages = store.geometry().segmentPages;
  mine.history = record.history;
  state_ = State::offering;
  say(encode(mine));
}

void UpstreamSession::onMessage(Bytes bytes) {
  if (ended_) return;
  heard();
  auto decoded = decodeMessage(bytes);
  if (!decoded) return end(decoded.error());
  if (auto* answer = std::get_if<Answer>(&decoded.value()); answer != nullptr && state_ == State::offering) {
    take(*answer);
  } else if (auto* heartbeat = std::get_if<Heartbeat>(&decoded.value());
             heartbeat != nullptr && state_ == State::streaming) {
    echoNs_ = heartbeat->sentNs;
    if (!checkEpoch({heartbeat->epoch, heartbeat->epochFirstLsn})) return;
    const bool news = epoch_.epoch > host_.store().record().promisedEpoch || epochToNote();
    if (news && !joinEpoch(host_.store().record())) return;
    host_.heardFromUpstream(*heartbeat);
  } else if (auto* rails = std::get_if<Rails>(&decoded.value())) {
    host_.heardRails(std::move(*rails));
  } else if (std::holds_alternative<Probe>(decoded.value()) || std::holds_alternative<Lost>(decoded.value())) {
    // Was under way when the link was taken up for this session.
  } else if (auto* query = std::get_if<PageQuery>(&decoded.value()); query != nullptr && state_ == State::streaming) {
    if (!exchange_.take(*query)) end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a second question about pages"));
  } else if (auto* reply = std::get_if<PageReply>(&decoded.value()); reply != nullptr && state_ == State::streaming) {
    if (!exchange_.take(std::move(*reply))) end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "an answer about pages that were not asked for"));
  } else {
    end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a message that does not belong here"));
  }
}

void UpstreamSession::heard() {
  heardNs_ = monotonicNs();
  host_.upstreamSpoke(heardNs_);
}

// ---- epochs ----
//
// An election takes, of those who promised, the log with the highest (log epoch, received LSN); the log epoch is the last
// of the stored history. What a primary of epoch e counts towards a commit must therefore win against every log that e's
// primary, or an older one, did not have. Hence three rules:
//
// 1. A node vouches in e, and its acknowledgements count, only once (e, first LSN of e) is stored durably; and it is
//    stored only when everything below that LSN is here and agrees with the log of e's primary. Then the node beats
//    every log of an epoch before e however long: an entry of an older epoch, shipped again in e, cannot be lost to a
//    primary of an epoch between (figure 8 of the Raft paper).
// 2. It agrees with that log because an upstream's word is believed in a session only after the hand-shake has found
//    this log to be a part of the upstream's, which is, by the same rule, a part of that of the primary whose epoch it
//    names. A cut anywhere on the way ends the sessions below it.
// 3. Joining an epoch promises it: no older primary is followed ever after, so what was vouched for is not taken back
//    except for a newer one.

bool UpstreamSession::checkEpoch(const EpochStart& epoch) {
  const uint64_t promised = host_.store().record().promisedEpoch;
  if (epoch.epoch < promised || epoch.epoch < epoch_.epoch) {
    end(makeError("WALSHIP_ERR_EPOCH", "'" + node_ + "' is in epoch " + std::to_string(epoch.epoch) +
                                           ", this node has promised epoch " +
                                           std::to_string(std::max(promised, epoch_.epoch))));
    return false;
  }
  if (epoch.epoch == epoch_.epoch && epoch != epoch_) {
    end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "'" + node_ + "' names two beginnings of one epoch"));
    return false;
  }
  epoch_ = epoch;
  return true;
}

bool UpstreamSession::epochToNote() const {
  const Store& store = host_.store();
  return epoch_.epoch > store.epoch() && store.receivedLsn() >= epoch_.firstLsn;
}

// Stores `record` with the promise of the session's epoch, and with its beginning if this log has reached it.
bool UpstreamSession::joinEpoch(NodeRecord record) {
  record.promisedEpoch = std::max(record.promisedEpoch, epoch_.epoch);
  const EpochStart last = record.history.empty() ? EpochStart{} : record.history.back();
  if (last.epoch > epoch_.epoch || (last.epoch < epoch_.epoch && last.firstLsn > epoch_.firstLsn) ||
      (last.epoch == epoch_.epoch && last != epoch_)) {
    end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "'" + node_ + "' names an epoch that its history does not lead to"));
    return false;
  }
  if (last.epoch < epoch_.epoch && host_.store().receivedLsn() >= epoch_.firstLsn) record.history.push_back(epoch_);
  if (auto stored = host_.store().storeRecord(std::move(record)); !stored) {
    end(stored.error());
    return false;
  }
  return true;
}

// ---- the hand-shake ----

void UpstreamSession::take(const Answer& answer) {
  Store& store = host_.store();
  if (answer.kind == AnswerKind::refuse) {
    // Codes travel as text; the ones that callers act on are named here.
    const char* code = "WALSHIP_ERR_REFUSED";
    for (const char* known : {"WALSHIP_ERR_EPOCH", "WALSHIP_ERR_GEOMETRY", "WALSHIP_ERR_UPSTREAM_BEHIND",
                              "WALSHIP_ERR_TOO_FAR_BEHIND", "WALSHIP_ERR_LOG_CORRUPT",
                              "WALSHIP_ERR_DIVERGED_COMMITTED"}) {
      if (answer.code == known) code = known;
    }
    return end(makeError(code, "'" + node_ + "' refused: " + answer.message));
  }
  if (!checkEpoch({answer.epoch, answer.epochFirstLsn})) return;
  if (answer.kind == AnswerKind::cut) return cutTo(answer.start.lsn);

  if (store.empty() && answer.start != offered_) {
    const bool possible = answer.start.offset == 0 && answer.start.page >= offered_.page;
    if (!possible) return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a start that an empty log cannot take"));
    // They may have been told another start, while this log was empty.
    host_.dropDownstreams("the log here begins at LSN " + std::to_string(answer.start.lsn));
    if (auto started = store.startAt(answer.start); !started) return end(started.error());
  } else if (answer.start != offered_) {
    return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a start that was not offered"));
  }
  // The upstream's history is the authority up to where the logs agree.
  NodeRecord record = store.record();
  EpochHistory history;
  for (const EpochStart& start : answer.history) {
    if (start.firstLsn <= store.received().lsn) history.push_back(start);
  }
  const bool news = history != record.history || epoch_.epoch > record.promisedEpoch;
  record.history = std::move(history);
  const bool noted = epoch_.epoch == (record.history.empty() ? 0 : record.history.back().epoch);
  if ((news || (!noted && store.receivedLsn() >= epoch_.firstLsn)) && !joinEpoch(std::move(record))) return;

  host_.event("upstream-up", node_, {});
  // Only now is this log known to be a prefix of the upstream's.
  host_.heardFromUpstream({answer.epoch, answer.epochFirstLsn, answer.start.lsn, answer.committedLsn, answer.protectedLsn, 0});
  state_ = State::streaming;
  tailGrant_ = nextGrant_++;
  const LogPosition& tail = store.received();
  const RemotePage page = link_->expect(tailGrant_, store.tailPage().data(), tail.offset, store.geometry().pageBytes);
  std::vector<Grant> grants{{tailGrant_, tail.page, tail.offset, page}};
  say(encode(grants));
  ackDueNs_ = 0;
}

void UpstreamSession::cutTo(uint64_t lsn) {
  Store& store = host_.store();
  const LogPosition from = store.received();
  if (++cuts_ > kCutsMax || store.empty() || lsn >= from.lsn + (from.offset == 0 ? 1 : 0)) {
    return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "'" + node_ + "' asks for a cut at LSN " + std::to_string(lsn) +
                                                          " that leads nowhere"));
  }
  if (lsn < host_.protectedLsn() && !host_.discardCommitted()) {
    return end(makeError("WALSHIP_ERR_DIVERGED_COMMITTED",
                         "'" + node_ + "' agrees with this node's log only up to LSN " + std::to_string(lsn) +
                             ", but LSN " + std::to_string(host_.protectedLsn()) +
                             " was committed synchronously; nothing is cut: find out which node has the right history"));
  }
  auto to = store.boundary(lsn);
  if (!to) return end(to.error());
  // The promise first: what is cut for this epoch is not to be shipped here again by an older one.
  NodeRecord record = store.record();
  if (epoch_.epoch > record.promisedEpoch) {
    record.promisedEpoch = epoch_.epoch;
    if (auto stored = store.storeRecord(std::move(record)); !stored) return end(stored.error());
  }
  host_.beforeCut(to.value());
  auto cut = store.cut(to.value());
  host_.afterCut(from, to.value(), cut.ok());
  if (!cut) return end(cut.error());
  offer();
}

// ---- receiving ----

void UpstreamSession::grantPages() {
  Store& store = host_.store();
  std::vector<Grant> grants;
  while (ahead_.size() < host_.settings().grantPages) {
    const uint64_t page = store.received().page + 1 + ahead_.size();
    Pin pin = store.arena().create(page, PageOrigin::appended);
    if (!pin) break;
    const uint32_t id = nextGrant_++;
    grants.push_back({id, page, 0, link_->expect(id, pin.data(), 0, store.geometry().pageBytes)});
    ahead_.push_back({id, std::move(pin)});
  }
  if (!grants.empty()) say(encode(grants));
}

void UpstreamSession::onLanded(uint32_t grantId, uint32_t length) {
  if (ended_) return;
  heard();
  Store& store = host_.store();
  LogPosition from = store.received();
  MutableBytes page = store.tailPage().bytes();
  const bool nextPage = grantId != tailGrant_;
  if (nextPage) {
    if (ahead_.empty() || ahead_.front().id != grantId) {
      return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "bytes for another page than the next"));
    }
    page = ahead_.front().pin.bytes();
    from.page += 1;
    from.offset = 0;
  }
  // The tail page is finished only when what comes after it has proved to be its continuation: a range lost at its end
  // must leave it open.
  auto checked = checkRange(page, store.geometry(), from, from.offset + length);
  if (!checked) {
    Error error = checked.error();
    error.message = "what '" + node_ + "' shipped at LSN " + std::to_string(from.lsn) + " is not the next frame: " + error.message;
    return end(std::move(error));
  }
  // Behind the beginning of the upstream's epoch stands nothing of an older one: those would be the bytes of a deposed
  // primary.
  const uint64_t last = checked.value().epoch;
  if (last > epoch_.epoch || (last < epoch_.epoch && checked.value().lsn > epoch_.firstLsn)) {
    return end(makeError("WALSHIP_ERR_EPOCH", "a frame of epoch " + std::to_string(last) + " up to LSN " +
                                                  std::to_string(checked.value().lsn) + " in a session of epoch " +
                                                  std::to_string(epoch_.epoch) + ", which began at LSN " +
                                                  std::to_string(epoch_.firstLsn)));
  }
  if (checked.value().epoch > store.epoch() && !noteEpochs(page, from, checked.value())) return;
  if (nextPage) {
    link_->forget(tailGrant_);
    tailGrant_ = grantId;
    Pin next = std::move(ahead_.front().pin);
    ahead_.pop_front();
    store.openPage(std::move(next));
  }
  store.advance(checked.value());
  if (epochToNote() && !joinEpoch(store.record())) return;
  ackDue(host_.awaitedLevel() == CommitLevel::received);
}

bool UpstreamSession::noteEpochs(Bytes page, const LogPosition& from, const LogPosition& to) {
  Store& store = host_.store();
  NodeRecord record = store.record();
  forEachFrame(page, from.offset, to.offset, [&](const FrameHeader& header, Bytes) {
    if (record.history.empty() || header.epoch > record.history.back().epoch) {
      record.history.push_back({header.epoch, header.lsn});
    }
    return true;
  });
  if (record.history.back().epoch == epoch_.epoch && record.history.back() != epoch_) {
    end(makeError("WALSHIP_ERR_EPOCH", "epoch " + std::to_string(epoch_.epoch) + " begins at another LSN than '" + node_ + "' said"));
    return false;
  }
  if (auto stored = store.storeRecord(std::move(record)); !stored) {
    end(stored.error());
    return false;
  }
  return true;
}

void UpstreamSession::positionsMoved(bool due, bool below) {
  const CommitLevel awaited = host_.awaitedLevel();
  ackDue((due && awaited >= CommitLevel::flushed) || (below && awaited >= CommitLevel::received));
}

// An ack costs both ends a system call and a wake-up: at once only for a position that a commit may be waiting for.
void UpstreamSession::ackDue(bool awaited) {
  ackDueNs_ = awaited ? 0 : std::min(ackDueNs_, monotonicNs() + kAckDelayNs);
}

void UpstreamSession::acknowledge(uint64_t nowNs) {
  Store& store = host_.store();
  const Tree& tree = host_.tree();
  if (describedVersion_ != tree.version()) {
    describedVersion_ = tree.version();
    const Rail rail = link_->rail();
    say(encode(Describe{host_.nodeKey(), keyOf(node_), host_.nodeId(), rail.transport, rail.device, rail.local, rail.remote}));
    for (const auto& [key, node] : tree.nodes()) say(encode(node.description));
  }
  if (const Horizon horizon = host_.horizon(); horizon != horizonSaid_) {
    horizonSaid_ = horizon;
    say(encode(horizon));
  }
  Ack ack;
  ack.echoNs = std::exchange(echoNs_, 0);
  ack.sentNs = monotonicNs();
  const uint64_t flushed = store.flushedLsn();
  ack.entries.push_back({host_.nodeKey(), store.epoch(), {std::max(store.receivedLsn(), flushed), flushed, host_.appliedLsn()}});
  for (const auto& [key, node] : tree.nodes()) ack.entries.push_back({key, node.epoch, node.positions});
  say(encode(ack));
  ackDueNs_ = UINT64_MAX;
  ackSentNs_ = nowNs;
}

}  // namespace walship

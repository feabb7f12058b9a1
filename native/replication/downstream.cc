#include "replication/downstream.h"

#include "base/checksum.h"
#include "base/clock.h"

namespace walship {

namespace {
constexpr size_t kUnsentMax = 64;
constexpr size_t kGrantsHeldMax = 1024;
constexpr uint64_t kRefusalGraceNs = 200'000'000;
constexpr uint64_t kCommitHeartbeatNs = 1'000'000;  // a moved commit position is told at most this often
}  // namespace

DownstreamSession::DownstreamSession(SessionHost& host, std::unique_ptr<Link> link, std::string node)
    : host_(host),
      node_(std::move(node)),
      nodeKey_(keyOf(node_)),
      exchange_(host),
      heardNs_(monotonicNs()),
      link_(std::move(link)) {
  link_->setHandler(this);
}

DownstreamSession::~DownstreamSession() { host_.tree().dropVia(this); }

void DownstreamSession::end(Error error) {
  if (!ended_) ended_ = state_ == State::refused ? refusal_ : std::move(error);
}

void DownstreamSession::say(Buffer message) {
  if (unsent_.empty() && link_->send(message)) return;
  if (unsent_.size() >= kUnsentMax) return end(makeError("WALSHIP_ERR_LINK_BROKEN", "the downstream takes no messages"));
  unsent_.push_back(std::move(message));
}

// Behind everything else that is to be said.
void DownstreamSession::talkOfPages() {
  exchange_.step([this](const Buffer& message) { return unsent_.empty() && link_->send(message); });
}

bool DownstreamSession::step(uint64_t nowNs) {
  if (ended_) return false;
  const auto& settings = host_.settings();
  if (elapsedNs(heardNs_, nowNs) > uint64_t{settings.linkTimeoutMs} * 1'000'000) {
    end(makeError("WALSHIP_ERR_LINK_TIMEOUT",
                  "nothing heard from '" + node_ + "' for " + std::to_string(settings.linkTimeoutMs) + " ms"));
    return false;
  }
  while (!unsent_.empty() && link_->send(unsent_.front())) unsent_.pop_front();
  if (state_ == State::answering) answerOffer();
  if (state_ == State::refused && elapsedNs(refusedNs_, nowNs) > kRefusalGraceNs) end(refusal_);
  bool any = false;
  if (state_ == State::streaming && !ended_) {
    // Before the bytes: frames of a new epoch are refused in a session that does not know of it.
    const uint64_t since = nowNs - heartbeatSentNs_;
    const bool moved = host_.committedLsn() != committedSent_;
    if (since >= uint64_t{settings.heartbeatMs} * 1'000'000 || (moved && since >= kCommitHeartbeatNs) ||
        host_.reign() != reignSent_ || host_.awaitedLevel() != awaitedSent_) {
      reignSent_ = host_.reign();
      awaitedSent_ = host_.awaitedLevel();
      heartbeatSentNs_ = nowNs;
      committedSent_ = host_.committedLsn();
      say(encode(Heartbeat{reignSent_.epoch, reignSent_.firstLsn, host_.store().receivedLsn(), committedSent_, host_.protectedLsn(), nowNs,
                           awaitedSent_, ackSentNs_, host_.ageNs(nowNs)}));
    }
    any = ship();
    talkOfPages();
  }
  return any;
}

void DownstreamSession::onLanded(uint32_t, uint32_t) {
  end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a downstream shipped to its upstream"));
}

void DownstreamSession::onMessage(Bytes bytes) {
  if (ended_ || state_ == State::refused) return;
  heardNs_ = monotonicNs();
  auto decoded = decodeMessage(bytes);
  if (!decoded) return end(decoded.error());
  Message& message = decoded.value();
  if (auto* offer = std::get_if<Offer>(&message); offer != nullptr && state_ == State::awaitingOffer) {
    offer_ = std::move(*offer);
    state_ = State::answering;
  } else if (auto* grants = std::get_if<std::vector<Grant>>(&message); grants != nullptr && state_ == State::streaming) {
    for (const Grant& grant : *grants) {
      const bool follows = grants_.empty() || grant.page == grants_.back().page + 1;
      if (!follows || grants_.size() >= kGrantsHeldMax || grant.page < cursorPage_) {
        return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a grant out of order"));
      }
      grants_.push_back(grant);
    }
  } else if (auto* ack = std::get_if<Ack>(&message); ack != nullptr && state_ == State::streaming) {
    take(*ack);
  } else if (auto* horizon = std::get_if<Horizon>(&message); horizon != nullptr && state_ == State::streaming) {
    host_.tree().setHorizon(*horizon, this);
  } else if (auto* describe = std::get_if<Describe>(&message); describe != nullptr && state_ == State::streaming) {
    if (describe->nodeKey == host_.nodeKey() || !host_.tree().describe(*describe, this)) {
      end(makeError("WALSHIP_ERR_NODE", "node '" + describe->node + "' below '" + node_ +
                                            "' is already in the tree; node ids must differ and the cascade must not loop"));
    }
  } else if (auto* query = std::get_if<PageQuery>(&message); query != nullptr && state_ == State::streaming) {
    if (!exchange_.take(*query)) end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a second question about pages"));
  } else if (auto* reply = std::get_if<PageReply>(&message); reply != nullptr && state_ == State::streaming) {
    if (!exchange_.take(std::move(*reply))) end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "an answer about pages that were not asked for"));
  } else {
    end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a message that does not belong here"));
  }
}

void DownstreamSession::take(const Ack& ack) {
  const uint64_t nowNs = monotonicNs();
  ackSentNs_ = ack.sentNs;
  if (ack.echoNs != 0 && ack.echoNs <= nowNs) roundTripNs_.record(nowNs - ack.echoNs);
  if (ack.entries[0].nodeKey != nodeKey_) return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "an ack of another node"));
  const uint64_t tail = host_.store().receivedLsn();
  for (const AckEntry& entry : ack.entries) {
    if (entry.positions.received > tail || !host_.tree().update(entry, this, nowNs)) {
      return end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "an ack of a node or a position that cannot be"));
    }
  }
  host_.tree().keepOnly(ack.entries, this);
}

void DownstreamSession::onShipped(uint64_t count) {
  while (!pages_.empty() && pages_.front().lastShip <= count && pages_.front().pin.page() != cursorPage_) {
    pages_.pop_front();
  }
}

// ---- the hand-shake ----

void DownstreamSession::refuse(const char* code, const std::string& message) {
  Answer refusal;
  refusal.kind = AnswerKind::refuse;
  refusal.epoch = host_.reign().epoch;
  refusal.epochFirstLsn = host_.reign().firstLsn;
  refusal.code = code;
  refusal.message = message;
  say(encode(refusal));
  // The peer leaves when it has read why; a link broken off at once might not carry the reason.
  refusal_ = makeError(code, message);
  refusedNs_ = monotonicNs();
  state_ = State::refused;
}

void DownstreamSession::answer(AnswerKind kind, const LogPosition& start) {
  Answer what;
  what.kind = kind;
  what.start = start;
  what.epoch = host_.reign().epoch;
  what.epochFirstLsn = host_.reign().firstLsn;
  what.committedLsn = host_.committedLsn();
  what.protectedLsn = host_.protectedLsn();
  what.history = host_.store().record().history;
  say(encode(what));
  if (kind == AnswerKind::cut) {
    state_ = State::awaitingOffer;
    return;
  }
  state_ = State::streaming;
  host_.keepFor(node_, start.lsn);
  cursorPage_ = start.page;
  cursorOffset_ = start.offset;
}

void DownstreamSession::answerOffer() {
  Store& store = host_.store();
  const Geometry& geometry = store.geometry();
  if (offer_.pageBytes != geometry.pageBytes || offer_.segmentPages != geometry.segmentPages) {
    return refuse("WALSHIP_ERR_GEOMETRY", "page or segment size differs: " + std::to_string(geometry.pageBytes) + " × " +
                                              std::to_string(geometry.segmentPages) + " here; set both nodes alike");
  }
  if (offer_.promisedEpoch > host_.reign().epoch) {
    return refuse("WALSHIP_ERR_EPOCH", "'" + node_ + "' has promised itself to epoch " +
                                           std::to_string(offer_.promisedEpoch) + ", newer than epoch " +
                                           std::to_string(host_.reign().epoch) + " here");
  }
  if (offer_.protectedLsn > store.received().lsn && host_.isPrimary()) {
    return refuse("WALSHIP_ERR_DIVERGED_COMMITTED",
                  "'" + node_ + "' knows LSN " + std::to_string(offer_.protectedLsn) +
                      " to be committed, this primary's log ends before it; promote the most advanced node instead");
  }
  if (!offer_.hasLog) {
    const uint64_t first = store.log().firstPage();
    if (store.empty()) return answer(AnswerKind::accept, store.received());
    const Pin pin = store.arena().find(first, Access::catchUp);
    if (!pin) return host_.requestLoad(first);
    const auto header = loadAt<PageHeader>(pin.bytes(), 0);
    return answer(AnswerKind::accept, {header.firstLsn, header.parent, 0, first, 0});
  }
  const LogPosition& theirs = offer_.tail;
  const LogPosition& ours = store.received();
  const uint64_t common = commonLsn(store.record().history, ours.lsn, offer_.history, theirs.lsn);
  if (theirs.lsn > ours.lsn || common < theirs.lsn) {
    if (common >= ours.lsn && !host_.isPrimary()) {
      return refuse("WALSHIP_ERR_UPSTREAM_BEHIND", "'" + host_.nodeId() + "' is itself behind '" + node_ + "'; try again");
    }
    return answer(AnswerKind::cut, {common, 0, 0, 0, 0});
  }
  if (theirs.page < store.log().firstPage()) {
    if (theirs.page + 1 == store.log().firstPage() && theirs.lsn == store.log().firstLsn()) return answerAtStart();
    return refuse("WALSHIP_ERR_TOO_FAR_BEHIND", "the log here begins at LSN " + std::to_string(store.log().firstLsn()) +
                                                    ", '" + node_ + "' ends at " + std::to_string(theirs.lsn) +
                                                    "; give it a snapshot, or keep more (retention)");
  }
  if (theirs.page > ours.page) return answer(AnswerKind::cut, {ours.lsn, 0, 0, 0, 0});
  const Pin pin = store.arena().find(theirs.page, Access::catchUp);
  if (!pin) return host_.requestLoad(theirs.page);
  const auto header = loadAt<PageHeader>(pin.bytes(), 0);
  const LogPosition found = pin.filled() == 0 || theirs.lsn < header.firstLsn
                                ? LogPosition{}
                                : boundaryAt(pin.bytes(), pin.filled(), theirs.lsn);
  const bool sameStart = pin.filled() == 0
                             ? theirs.lsn == ours.lsn && theirs.headerChecksum == ours.headerChecksum
                             : theirs.lsn == header.firstLsn && theirs.headerChecksum == header.parent;
  const bool same = theirs.offset == 0 ? sameStart
                                       : found.lsn == theirs.lsn && found.offset == theirs.offset &&
                                             found.headerChecksum == theirs.headerChecksum;
  if (same) return answer(AnswerKind::accept, theirs);
  // The histories agree but the bytes do not: go back page by page until they do.
  const uint64_t back = pin.filled() == 0 ? ours.lsn : std::min(header.firstLsn, theirs.lsn - 1);
  answer(AnswerKind::cut, {back, 0, 0, 0, 0});
}

// Theirs ends with the page before the first one here: what it needs is all there, from the next page on.
void DownstreamSession::answerAtStart() {
  Store& store = host_.store();
  const LogPosition& theirs = offer_.tail;
  const uint64_t first = store.log().firstPage();
  const Pin pin = store.arena().find(first, Access::catchUp);
  if (!pin) return host_.requestLoad(first);
  const uint64_t parent =
      pin.filled() == 0 ? store.received().headerChecksum : loadAt<PageHeader>(pin.bytes(), 0).parent;
  if (theirs.headerChecksum != parent) {
    return refuse("WALSHIP_ERR_TOO_FAR_BEHIND", "'" + node_ + "' ends at LSN " + std::to_string(theirs.lsn) +
                                                    ", where the log here begins, with other bytes than those that were "
                                                    "before it; give it a snapshot");
  }
  answer(AnswerKind::accept, theirs);
  cursorPageDone_ = true;
}

void DownstreamSession::onPage(uint64_t page, const Error* error) {
  if (page == loadAskedPage_) loadAskedPage_ = UINT64_MAX;
  if (error == nullptr || error->is("WALSHIP_ERR_ARENA_BUSY")) return;
  if (state_ == State::answering && (page == offer_.tail.page || page == offer_.tail.page + 1 || !offer_.hasLog)) return refuse(error->code, error->message);
  if (state_ == State::streaming && page == cursorPage_) end(*error);
}

// ---- shipping ----

Pin* DownstreamSession::cursorPin() {
  if (!pages_.empty() && pages_.back().pin.page() == cursorPage_) return &pages_.back().pin;
  Store& store = host_.store();
  const bool lagging = cursorPage_ + 1 < store.received().page;
  const Access access = !lagging ? Access::ship : cursorPage_ < askedUpTo_ ? Access::loadedFor : Access::catchUp;
  Pin pin = store.arena().find(cursorPage_, access);
  if (lagging) {
    const uint64_t last = std::min(cursorPage_ + host_.settings().readAheadPages, store.received().page - 1);
    for (uint64_t page = cursorPage_ + (pin ? 1 : 0); page <= last; ++page) {
      if (page == loadAskedPage_ || store.arena().contains(page)) continue;
      host_.requestLoad(page);
      askedUpTo_ = page + 1;
    }
  } else if (!pin && loadAskedPage_ != cursorPage_) {
    host_.requestLoad(cursorPage_);
  }
  if (!pin) {
    loadAskedPage_ = cursorPage_;
    return nullptr;
  }
  pages_.push_back({std::move(pin), 0});
  return &pages_.back().pin;
}

bool DownstreamSession::ship() {
  bool any = false;
  while (true) {
    while (!grants_.empty() && grants_.front().page < cursorPage_) grants_.pop_front();
    if (grants_.empty()) break;
    const Grant& grant = grants_.front();
    if (grant.page != cursorPage_) {
      end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a grant for another page than the next"));
      break;
    }
    if (std::exchange(cursorPageDone_, false)) {
      ++cursorPage_;
      cursorOffset_ = 0;
      continue;
    }
    if (cursorPage_ > host_.store().received().page) break;
    const bool finishedBefore = [&] {
      Pin* pin = cursorPin();
      return pin != nullptr && pin->finished();
    }();
    if (pages_.empty() || pages_.back().pin.page() != cursorPage_) break;  // being loaded
    const Pin& pin = pages_.back().pin;
    const uint32_t filled = pin.filled();
    if (cursorOffset_ >= filled) {
      if (!finishedBefore) break;
      ++cursorPage_;
      cursorOffset_ = 0;
      if (pages_.back().lastShip == 0) pages_.pop_back();
      continue;
    }
    if (grant.offset > cursorOffset_) {
      end(makeError("WALSHIP_ERR_LINK_PROTOCOL", "a grant with a gap"));
      break;
    }
    uint32_t to = cursorOffset_ == 0 ? kPageHeaderBytes : cursorOffset_;
    do {
      to += frameBytes(loadAt<FrameHeader>(pin.bytes(), to).length);
    } while (to < filled && to - cursorOffset_ + frameBytes(loadAt<FrameHeader>(pin.bytes(), to).length) <=
                                host_.settings().rangeBytesMax);
    WALSHIP_ASSERT(to <= filled);
    if (!link_->ship(pin.bytes().subspan(cursorOffset_, to - cursorOffset_), grant.id, grant.remote, cursorOffset_)) break;
    pages_.back().lastShip = ++ships_;
    cursorOffset_ = to;
    any = true;
  }
  return any;
}

}  // namespace walship

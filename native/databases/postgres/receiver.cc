#include "databases/postgres/receiver.h"

#include <poll.h>

#include "base/clock.h"
#include "databases/postgres/answers.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kGoodStreamNs = 5'000 * kMs;  // after such a one the next try is made soon
constexpr auto kBackPressurePause = std::chrono::microseconds(200);
constexpr size_t kMessagesPerLook = 64;
constexpr size_t kAppendBytes = 16u << 10;  // records that came together are appended together, up to about so much
constexpr size_t kShipBytes = 64u << 10;    // with so much to ship, the pump is to work beside this thread
constexpr uint64_t kHorizonGrace = 10;  // times statusMs: for a standby that is away for a moment

}  // namespace

Result<std::unique_ptr<Receiver>> Receiver::open(Engine& engine, ReceiverSettings settings) {
  auto cancel = Wakeup::create();
  if (!cancel) return cancel.error();
  auto wake = Wakeup::create();
  if (!wake) return wake.error();
  return std::unique_ptr<Receiver>(new Receiver(engine, std::move(settings), cancel.take(), wake.take()));
}

Receiver::~Receiver() { stop(); }

Result<void> Receiver::start() {
  WALSHIP_ASSERT(!thread_.joinable());
  if (!libpq().loaded()) return makeError("WALSHIP_ERR_POSTGRES_LIBPQ", libpq().problem);
  stopping_.store(false);
  cancel_.clear();
  records_.reset();  // a reign begins between two records
  observer_ = engine_.pump().observe([this] { positionsMoved(); });
  thread_ = std::thread([this] { run(); });
  return {};
}

void Receiver::stop() {
  stopping_.store(true);
  cancel_.raise();
  if (!thread_.joinable()) return;
  thread_.join();
  engine_.pump().unobserve(observer_);
  // From now on the database is somebody else's to apply.
  engine_.pump().setApplied(engine_.store().flushedLsn());
  const std::lock_guard lock(statusMutex_);
  status_.state = ReceiverState::stopped;
}

ReceiverStatus Receiver::status() {
  const std::lock_guard lock(statusMutex_);
  return status_;
}

void Receiver::run() {
  // The WAL comes out of the database: whatever the log has flushed is applied here.
  engine_.pump().setApplied(UINT64_MAX);
  uint32_t pauseMs = settings_.reconnectMsMin;
  std::string told;
  while (!stopping_.load()) {
    const uint64_t beganNs = monotonicNs();
    {
      const std::lock_guard lock(statusMutex_);
      status_.state = ReceiverState::connecting;
    }
    const Error why = withRemedy(session());
    if (stopping_.load()) return;
    {
      const std::lock_guard lock(statusMutex_);
      status_.state = ReceiverState::connecting;
      status_.problem = why;
    }
    if (elapsedNs(beganNs, monotonicNs()) > kGoodStreamNs) pauseMs = settings_.reconnectMsMin;
    if (told != why.message) {
      engine_.pump().newEvent({"postgres-disconnected", engine_.settings().nodeId, why.code, why.message,
                               engine_.pump().appender().endLsn()});
    }
    told = why.message;
    pollfd waited{cancel_.fd(), POLLIN, 0};
    ::poll(&waited, 1, static_cast<int>(pauseMs));
    pauseMs = std::min(pauseMs * 2, settings_.reconnectMsMax);
  }
}

Error Receiver::session() {
  auto connected = connect();
  if (!connected) return connected.error();
  Server& server = connected.value();
  auto kept = slotStart(server);
  if (!kept) return kept.error();
  auto start = whereToStart(server);
  if (!start) return start.error();
  for (;;) {
    endLsn_ = start.value().lsn;
    if (!records_ || records_->lsn() != endLsn_) records_.emplace(endLsn_, server.segmentBytes);
    const uint32_t timeline = start.value().timeline;
    auto streams = server.connection.startCopy("START_REPLICATION SLOT " + quoted(settings_.slot) + " PHYSICAL " +
                                                   formatLsn(endLsn_) + " TIMELINE " + std::to_string(timeline),
                                               answerDeadline());
    if (!streams) return streams.error();
    if (streams.value()) {
      const Error ended = stream(server, timeline);
      if (!ended.is("WALSHIP_ERR_POSTGRES_TIMELINE")) return ended;
    }
    // The timeline has ended: along the server's history to the next one.
    auto again = server.connection.query("IDENTIFY_SYSTEM", answerDeadline());
    if (!again) return again.error();
    if (!again.value() || again.value()->size() < 3) return unexpected("IDENTIFY_SYSTEM");
    server.timeline = numberIn<uint32_t>(again.value()->at(1)).value_or(server.timeline);
    start = whereToStart(server);
    if (!start) return start.error();
  }
}

// Streams until the connection is lost, or with WALSHIP_ERR_POSTGRES_TIMELINE to the end of the timeline.
Error Receiver::stream(Server& server, uint32_t timeline) {
  Connection& connection = server.connection;
  {
    const std::lock_guard lock(statusMutex_);
    status_.state = ReceiverState::streaming;
    status_.timeline = timeline;
    status_.problem.reset();
    ++status_.connects;
  }
  engine_.pump().newEvent({"postgres-connected", engine_.settings().nodeId, "", "", endLsn_});
  {
    const std::lock_guard lock(connectionMutex_);
    live_ = &connection;
    segmentBytes_ = server.segmentBytes;
    flushDue_ = broken_ = false;
    sent_.reset();
    horizonSent_.reset();
    horizonNs_ = monotonicNs();
    sendStatus(true, false);
  }
  // Nobody else is at the connection any more when this returns.
  const auto leave = [&](Error why) {
    if (std::exchange(unshipped_, 0) > 0) engine_.pump().wake();
    const std::lock_guard lock(connectionMutex_);
    live_ = nullptr;
    return why;
  };
  const uint64_t spinNs = engine_.settings().completion == CompletionMode::event ? 0 : engine_.settings().spinUs * 1000ull;
  uint64_t heardNs = monotonicNs();
  bool asked = false;
  while (!stopping_.load(std::memory_order_relaxed)) {
    bool ended = false;
    bool flushDue = false;
    {
      std::unique_lock lock(connectionMutex_);
      if (broken_ || !connection.readAvailable()) {
        lock.unlock();
        return leave(makeError("WALSHIP_ERR_POSTGRES_CONNECT", "the server closed the connection"));
      }
      for (size_t count = 0;; ++count) {
        auto drained = drain(connection);
        if (!drained) {
          lock.unlock();
          return leave(drained.error());
        }
        ended = drained.value() == Connection::Taken::ended;
        if (drained.value() != Connection::Taken::message) break;
        heardNs = monotonicNs();
        asked = false;
        if (count % kMessagesPerLook == kMessagesPerLook - 1 && stopping_.load()) break;
      }
      const uint64_t nowNs = monotonicNs();
      const uint64_t silentNs = elapsedNs(heardNs, nowNs);
      if (silentNs > settings_.silenceMs * kMs) {
        lock.unlock();
        return leave(makeError("WALSHIP_ERR_TIMEOUT", "the server has said nothing for " +
                                                          std::to_string(settings_.silenceMs) + " ms"));
      }
      if (!asked && silentNs > settings_.silenceMs * kMs / 2) asked = sendStatus(true, true);
      if (elapsedNs(sentNs_, nowNs) > settings_.statusMs * kMs) sendStatus(true, false);
      sendFeedback(nowNs);
      if (flushDue_) {
        const auto all = connection.flush();
        broken_ |= !all;
        flushDue_ = all && !*all;
      }
      flushDue = flushDue_;
    }
    if (std::exchange(unshipped_, 0) > 0) engine_.pump().takeTurn();
    // What moved while this thread was at the connection.
    if (statusDue_.load(std::memory_order_seq_cst)) {
      const std::lock_guard lock(connectionMutex_);
      serveStatus();
    }
    if (ended) {
      static_cast<void>(leave({}));
      auto next = connection.endCopy(answerDeadline());
      if (!next) return next.error();
      if (!next.value()) return makeError("WALSHIP_ERR_POSTGRES_CONNECT", "the server is shutting down");
      auto switched = switchTimeline(*next.value());
      return switched ? makeError("WALSHIP_ERR_POSTGRES_TIMELINE", "the timeline has ended") : switched.error();
    }
    if (elapsedNs(heardNs, monotonicNs()) < spinNs) continue;
    pollfd waited[3] = {{connection.socket(), static_cast<short>(flushDue ? POLLIN | POLLOUT : POLLIN), 0},
                        {cancel_.fd(), POLLIN, 0},
                        {wake_.fd(), POLLIN, 0}};
    ::poll(waited, 3, static_cast<int>(settings_.statusMs));
    if (waited[2].revents != 0) wake_.clear();
  }
  return leave(makeError("WALSHIP_ERR_CLOSED", "the receiver is stopping"));
}

// With connectionMutex_: takes one message.
Result<Connection::Taken> Receiver::drain(Connection& connection) {
  Bytes message;
  auto taken = connection.takeMessage(message);
  if (!taken || taken.value() != Connection::Taken::message) return taken;
  auto parsed = parseServerMessage(message);
  if (!parsed) return parsed.error();
  if (const auto* data = std::get_if<WalData>(&parsed.value())) {
    if (auto appended = take(*data); !appended) return appended.error();
  } else {
    const KeepAlive& keepAlive = std::get<KeepAlive>(parsed.value());
    {
      const std::lock_guard lock(statusMutex_);
      status_.serverEndLsn = keepAlive.endLsn;
    }
    if (keepAlive.replyWanted) sendStatus(true, false);
  }
  if (statusDue_.load(std::memory_order_relaxed)) serveStatus();
  return taken;
}

Result<void> Receiver::take(const WalData& data) {
  if (data.startLsn != endLsn_) {
    return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "the server sent WAL from " + formatLsn(data.startLsn) +
                                                          " on, where " + formatLsn(endLsn_) + " comes next");
  }
  if (data.bytes.empty()) return {};
  size_t whole = 0;  // of these bytes, up to the end of a record
  for (Bytes rest = data.bytes; !rest.empty();) {
    const WalRecords::Piece piece = records_->next(rest.subspan(whole));
    if (piece.ends) whole += piece.bytes;
    if (piece.ends && whole < kAppendBytes && whole < rest.size()) continue;
    if (whole > 0) {
      if (auto appended = append(rest.first(whole), false); !appended) return appended;
    }
    rest = rest.subspan(whole);
    whole = 0;
    if (piece.ends) continue;
    if (auto appended = append(rest.first(piece.bytes), true); !appended) return appended;
    rest = rest.subspan(piece.bytes);
  }
  if (records_->takeAppliedAsked()) engine_.pump().expectApplied();
  const std::lock_guard lock(statusMutex_);
  status_.receivedLsn = endLsn_;
  status_.serverEndLsn = data.endLsn;
  status_.bytes += data.bytes.size();
  return {};
}

Result<void> Receiver::append(Bytes bytes, bool continues) {
  for (;;) {
    auto end = engine_.append(bytes, continues, Ship::byCaller);
    if (end) {
      // Nobody else appends to this log.
      WALSHIP_ASSERT(end.value() == endLsn_ + bytes.size());
      endLsn_ = end.value();
      unshipped_ += bytes.size();
      if (unshipped_ >= kShipBytes) {
        unshipped_ = 0;
        engine_.pump().wake();
      }
      return {};
    }
    if (!end.error().is("WALSHIP_ERR_BACKPRESSURE")) return end.error();
    if (stopping_.load()) return makeError("WALSHIP_ERR_CLOSED", "the receiver is stopping");
    // The server is held back meanwhile, by TCP.
    engine_.pump().wake();
    serveStatus();
    std::this_thread::sleep_for(kBackPressurePause);
  }
}

// A new timeline begins with a new epoch at the very LSN, so that every node can tell where in a page it did.
Result<void> Receiver::switchTimeline(const Row& next) {
  const auto switchLsn = lsnIn(next, 1);
  if (!switchLsn) return unexpected("the end of a timeline");
  if (*switchLsn != endLsn_) {
    return makeError("WALSHIP_ERR_POSTGRES_DIVERGED",
                     "the server went on on timeline " + next[0].value_or("?") + " from " + formatLsn(*switchLsn) +
                         ", but the log already has the old one up to " + formatLsn(endLsn_));
  }
  auto epoch = engine_.pump().call([this]() -> Result<uint64_t> {
    if (!engine_.pump().isPrimary()) return makeError("WALSHIP_ERR_NOT_PRIMARY", "this node is not the primary any more");
    if (auto stepped = engine_.pump().demote(); !stepped) return stepped;
    return engine_.pump().promote(0);
  });
  if (!epoch) return epoch.error();
  return {};
}

// ---- the answers ----

void Receiver::send(const Buffer& message) {
  const bool queued = live_->send(message);
  const auto all = live_->flush();
  broken_ |= !queued || !all;
  flushDue_ = all && !*all;
  // The thread may be asleep, waiting for input only; and a flush that could not end has perhaps read some of that.
  if (broken_ || flushDue_) wake_.raise();
}

// PostgreSQL keeps what a slot needs until it is told otherwise, so that a new connection always tells it.
void Receiver::sendFeedback(uint64_t nowNs) {
  const Horizon horizon = engine_.pump().shownHorizon();
  if (horizon != Horizon{}) horizonNs_ = nowNs;
  if (horizonSent_ == horizon || broken_) return;
  if (horizon == Horizon{} && elapsedNs(horizonNs_, nowNs) < kHorizonGrace * settings_.statusMs * kMs) return;
  Buffer message;
  encode(message, feedbackOf(horizon));
  send(message);
  horizonSent_ = horizon;
}

bool Receiver::sendStatus(bool force, bool replyWanted) {
  if (live_ == nullptr || broken_) return false;
  Pump& pump = engine_.pump();
  StandbyStatus status;
  status.written = pump.proven(CommitLevel::received);
  // PostgreSQL may drop the segments below: not the one in which this node's own disk is, if that is behind.
  const uint64_t ownSegmentEnd = (engine_.store().flushedLsn() / segmentBytes_ + 1) * segmentBytes_;
  status.flushed = std::min({pump.proven(CommitLevel::flushed), status.written, ownSegmentEnd - 1});
  status.applied = std::min(pump.proven(CommitLevel::applied), status.flushed);
  if (!force && sent_ && sent_->written == status.written && sent_->flushed == status.flushed &&
      sent_->applied == status.applied) {
    return true;
  }
  status.timeUs = postgresUs();
  status.replyWanted = replyWanted;
  Buffer message;
  encode(message, status);
  send(message);
  sent_ = status;
  sentNs_ = monotonicNs();
  const std::lock_guard lock(statusMutex_);
  status_.written = status.written;
  status_.flushed = status.flushed;
  status_.applied = status.applied;
  ++status_.statusesSent;
  return true;
}

// With connectionMutex_.
bool Receiver::serveStatus() {
  if (!statusDue_.exchange(false, std::memory_order_seq_cst)) return false;
  return sendStatus(false, false);
}

// On the pump. Whoever holds the mutex looks at statusDue_ once more after letting go of it.
void Receiver::positionsMoved() {
  statusDue_.store(true, std::memory_order_seq_cst);
  const std::unique_lock lock(connectionMutex_, std::try_to_lock);
  if (lock) serveStatus();
}

}  // namespace walship::postgres

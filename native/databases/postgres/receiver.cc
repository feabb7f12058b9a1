#include "databases/postgres/receiver.h"

#include <poll.h>

#include <bit>
#include <charconv>

#include "base/clock.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kGoodStreamNs = 5'000 * kMs;  // after such a one the next try is made soon
constexpr auto kBackPressurePause = std::chrono::microseconds(200);
constexpr size_t kMessagesPerLook = 64;
constexpr size_t kAppendBytes = 16u << 10;  // records that came together are appended together, up to about so much
constexpr size_t kShipBytes = 64u << 10;    // with so much to ship, the pump is to work beside this thread
constexpr uint64_t kHorizonGrace = 10;  // times statusMs: for a standby that is away for a moment

template <class T>
std::optional<T> numberIn(const std::optional<std::string>& text) {
  T value{};
  if (!text) return std::nullopt;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), value);
  if (parsed.ec != std::errc{} || parsed.ptr != text->data() + text->size()) return std::nullopt;
  return value;
}

std::optional<uint64_t> lsnIn(const Row& row, size_t column) {
  if (row.size() <= column || !row[column]) return std::nullopt;
  return parseLsn(*row[column]);
}

Error unexpected(const std::string& command) {
  return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "the server's answer to " + command + " cannot be understood");
}

// "16MB"
std::optional<uint64_t> bytesIn(const std::string& text) {
  uint64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(parsed.ptr, static_cast<size_t>(text.data() + text.size() - parsed.ptr));
  if (parsed.ec != std::errc{}) return std::nullopt;
  if (unit == "MB") return value << 20;
  if (unit == "GB") return value << 30;
  return std::nullopt;
}

std::string quoted(const std::string& name) {
  std::string out = "\"";
  for (const char letter : name) {
    if (letter == '"') out.push_back('"');
    out.push_back(letter);
  }
  return out + "\"";
}

}  // namespace

Result<std::unique_ptr<Receiver>> Receiver::open(Engine& engine, ReceiverSettings settings) {
  auto cancel = Wakeup::create();
  if (!cancel) return cancel.error();
  auto wake = Wakeup::create();
  if (!wake) return wake.error();
  return std::unique_ptr<Receiver>(new Receiver(engine, std::move(settings), cancel.take(), wake.take()));
}

Receiver::~Receiver() { stop(); }

uint64_t Receiver::answerDeadline() const { return monotonicNs() + settings_.connectTimeoutMs * kMs; }

// ---- setting up ----

Result<Receiver::Server> Receiver::connect() {
  auto connection = Connection::open(settings_.conninfo, settings_.applicationName, answerDeadline(), cancel_);
  if (!connection) return connection.error();
  auto row = connection.value().query("IDENTIFY_SYSTEM", answerDeadline());
  if (!row) return row.error();
  if (!row.value() || row.value()->size() < 3) return unexpected("IDENTIFY_SYSTEM");
  const auto systemId = numberIn<uint64_t>(row.value()->at(0));
  const auto timeline = numberIn<uint32_t>(row.value()->at(1));
  const auto endLsn = lsnIn(*row.value(), 2);
  if (!systemId || !timeline || !endLsn) return unexpected("IDENTIFY_SYSTEM");
  auto identity = identityOf(engine_);
  if (!identity) return identity.error();
  if (identity.value() && identity.value()->systemId != *systemId) {
    return makeError("WALSHIP_ERR_POSTGRES_FOREIGN",
                     "the server is of another database cluster: its system identifier is " + std::to_string(*systemId) +
                         ", that of the WAL in this log is " + std::to_string(identity.value()->systemId) +
                         "; point postgres.primary at the right server, or use a new log directory");
  }
  {
    const std::lock_guard lock(statusMutex_);
    status_.systemId = *systemId;
    status_.timeline = *timeline;
    status_.serverVersion = connection.value().serverVersion();
    status_.serverEndLsn = *endLsn;
  }
  auto shown = connection.value().query("SHOW wal_segment_size", answerDeadline());
  if (!shown) return shown.error();
  const auto segmentBytes = shown.value() && !shown.value()->empty() && shown.value()->at(0)
                                ? bytesIn(*shown.value()->at(0))
                                : std::nullopt;
  if (!segmentBytes || !std::has_single_bit(*segmentBytes)) return unexpected("SHOW wal_segment_size");
  return Server{connection.take(), *systemId, *timeline, *endLsn, static_cast<uint32_t>(*segmentBytes)};
}

// Makes the slot if need be. From where on the server keeps its WAL for it.
Result<uint64_t> Receiver::slotStart(Server& server) {
  const std::string slot = quoted(settings_.slot);
  for (const bool made : {false, true}) {
    auto row = server.connection.query("READ_REPLICATION_SLOT " + slot, answerDeadline());
    if (!row) return row.error();
    if (!row.value() || row.value()->size() < 2) return unexpected("READ_REPLICATION_SLOT");
    if (row.value()->at(0)) {
      const auto restart = lsnIn(*row.value(), 1);
      return restart.value_or(server.endLsn);
    }
    if (made) break;
    auto create = server.connection.query("CREATE_REPLICATION_SLOT " + slot + " PHYSICAL RESERVE_WAL", answerDeadline());
    if (!create) return create.error();
  }
  return makeError("WALSHIP_ERR_POSTGRES_SERVER", "the replication slot " + slot + " was dropped just after it was made");
}

Result<uint64_t> Receiver::prepare() {
  if (!thread_.joinable()) cancel_.clear();
  auto connected = connect();
  if (!connected) return connected.error();
  Server& server = connected.value();
  auto kept = slotStart(server);
  if (!kept) return kept.error();
  const uint64_t wanted = settings_.startLsn.value_or(kept.value());
  const uint64_t start = wanted / server.segmentBytes * server.segmentBytes;
  return engine_.pump().call([&]() -> Result<uint64_t> {
    Store& store = engine_.store();
    const LogPosition at = store.received();
    if (!store.empty() || at.lsn == start) return at.lsn;
    if (engine_.pump().isPrimary()) {
      return makeError("WALSHIP_ERR_IS_PRIMARY", "the log must begin at " + formatLsn(start) +
                                                     " before this node becomes the primary");
    }
    engine_.pump().dropDownstreams("the log here begins at LSN " + std::to_string(start));
    if (auto begun = store.startAt({start, 0, 0, at.page, 0}); !begun) return begun.error();
    return start;
  });
}

Result<std::string> Receiver::history(Server& server, uint32_t timeline) {
  const std::string& dir = engine_.settings().log.dir;
  auto known = loadHistory(dir, timeline);
  if (!known) return known.error();
  if (known.value()) return *known.value();
  const std::string command = "TIMELINE_HISTORY " + std::to_string(timeline);
  auto row = server.connection.query(command, answerDeadline());
  if (!row) return row.error();
  if (!row.value() || row.value()->size() < 2 || !row.value()->at(1)) return unexpected(command);
  const std::string text = *row.value()->at(1);
  if (auto parsed = parseHistory(text); !parsed) return parsed.error();
  if (auto stored = storeHistory(dir, timeline, text); !stored) return stored.error();
  return text;
}

// The server cannot go on where the log ends.
Error Receiver::withRemedy(Error error) const {
  if (error.message.starts_with("58P01")) {
    error.message += "; the log ends at " + formatLsn(endLsn_) +
                     ", and the server has no longer what follows: put the segment back into its pg_wal, or begin a new "
                     "log (move " + engine_.settings().log.dir + " aside) and clone the standby servers again";
  }
  return error;
}

Result<Receiver::Start> Receiver::whereToStart(Server& server) {
  const uint64_t tail = engine_.pump().appender().endLsn();
  auto known = timelinesOf(engine_, tail);
  if (!known) return known.error();
  std::vector<TimelineEnd> ends;
  if (server.timeline > 1) {
    auto text = history(server, server.timeline);
    if (!text) return text.error();
    ends = parseHistory(text.value()).take();
  }
  const uint32_t timeline = known.value().newest();
  if (timeline > server.timeline) {
    return makeError("WALSHIP_ERR_POSTGRES_TIMELINE",
                     "the server is on timeline " + std::to_string(server.timeline) + ", the log already on " +
                         std::to_string(timeline) + ": it is not the newest primary; rewind it and make it a standby");
  }
  if (timeline == server.timeline) return Start{tail, timeline};
  // The log ends on an older timeline, or has nothing yet: it goes on along the server's history.
  for (const TimelineEnd& end : ends) {
    if (tail < end.switchLsn) return Start{tail, end.timeline};
    if (end.timeline != timeline || tail == end.switchLsn) continue;
    // So little of the new timeline that its first record is not whole.
    if (known.value().undecidedLsn == end.switchLsn) continue;
    return makeError("WALSHIP_ERR_POSTGRES_DIVERGED",
                     "the log holds WAL of timeline " + std::to_string(timeline) + " up to " + formatLsn(tail) +
                         ", but the server left that timeline at " + formatLsn(end.switchLsn) +
                         ": what is behind it was never part of the server's history");
  }
  return Start{tail, server.timeline};
}

// ---- the thread ----

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

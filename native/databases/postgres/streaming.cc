// The stream of a walsender's session.
#include <thread>

#include "base/clock.h"
#include "databases/postgres/session.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr size_t kWalBytesMax = 128u << 10;  // of one message, as PostgreSQL's own
constexpr uint64_t kKeepAliveNs = 10'000 * kMs;
constexpr uint64_t kIdleNs = 1000 * kMs;
constexpr auto kArenaPause = std::chrono::milliseconds(1);

}  // namespace

Session::Outcome Session::stream(uint64_t start) {
  putCopyBoth(out_);
  next_ = start;
  heardNs_ = monotonicNs();
  uint64_t saidNs = heardNs_;
  uint64_t busyNs = 0;
  bool asked = false;
  sendKeepAlive(false);
  const EngineSettings& engine = engine_.settings();
  const uint64_t spinNs = engine.completion == CompletionMode::event ? 0 : engine.spinUs * 1000ull;
  for (;;) {
    if (stopping_.load(std::memory_order_relaxed)) return makeError("WALSHIP_ERR_CLOSED", "the walsender is stopping");
    if (engine_.pump().cuts() != cuts_) {
      return fatal("57P01", "terminating walsender: the log was cut back to " + formatLsn(engine_.store().receivedLsn()),
                   "WAL behind that is not part of the primary's history: rewind the standby if it has replayed it.");
    }
    const uint64_t nowNs = monotonicNs();
    const uint64_t looked = sendable();
    const uint64_t gatherNs = this->gatherNs(nowNs);
    auto sent = gatherNs > 0 ? Result<bool>(false) : sendWal();
    if (!sent) {
      const bool linkGone = sent.error().is("WALSHIP_ERR_LINK_CLOSED");
      return linkGone ? sent.error() : fatal(sent.error().is("WALSHIP_ERR_LOG_TRIMMED") ? "58P01" : "XX000", sent.error().message);
    }
    bool busy = sent.value();
    if (busy) saidNs = walSentNs_ = nowNs;
    if (following_ && next_ == following_->lsn && !unsent()) return endOfTimeline();

    if (auto filled = fill(false); !filled) return filled;
    for (;;) {
      auto message = tryMessage();
      if (!message) return message.error();
      if (!message.value()) break;
      busy = true;
      asked = false;
      switch (message.value()->type) {
        case 'd':
          if (auto taken = takeReply(*message.value()); !taken) return taken;
          break;
        case 'c':
          putCopyDone(out_);
          return flush();
        case 'X': return makeError("WALSHIP_ERR_LINK_CLOSED", "the client ended the session");
        default: return fatal("08P01", "invalid standby message type");
      }
    }
    if (busy) {
      busyNs = nowNs;
      continue;
    }
    const uint64_t silentNs = elapsedNs(heardNs_, nowNs);
    if (silentNs > settings_.silenceMs * kMs) return makeError("WALSHIP_ERR_TIMEOUT", "the client has been silent");
    if (!asked && silentNs > settings_.silenceMs * kMs / 2) {
      sendKeepAlive(true);
      asked = true;
      saidNs = nowNs;
    } else if (elapsedNs(saidNs, nowNs) > kKeepAliveNs) {
      sendKeepAlive(false);
      saidNs = nowNs;
    }
    if (elapsedNs(busyNs, nowNs) < spinNs) continue;
    if (gatherNs > 0) {
      gathering_.store(true, std::memory_order_seq_cst);
      if (!engine_.pump().appliedAwaited()) {
        if (auto slept = sleep(gatherNs); !slept) return slept;
      }
      gathering_.store(false, std::memory_order_seq_cst);
      continue;
    }
    looked_.store(looked, std::memory_order_relaxed);
    sleeping_.store(true, std::memory_order_seq_cst);
    const bool more = !unsent() && sendable() != looked;
    if (!more) {
      if (auto slept = sleep(kIdleNs); !slept) return slept;
    }
    sleeping_.store(false, std::memory_order_seq_cst);
  }
}

uint64_t Session::gatherNs(uint64_t nowNs) const {
  const uint64_t sentNs = elapsedNs(walSentNs_, nowNs);
  const bool little = !unsent() && sendable() < next_ + kWalBytesMax;
  const uint64_t gatherNs = settings_.gatherMs * kMs;
  return little && sentNs < gatherNs && !engine_.pump().appliedAwaited() ? gatherNs - sentNs : 0;
}

// true: something went out.
Result<bool> Session::sendWal() {
  if (unsent()) {
    auto sent = trySend();
    if (!sent || unsent()) return sent;
  }
  const uint64_t limit = following_ ? std::min(sendable(), following_->lsn) : sendable();
  if (next_ >= limit) return false;
  auto piece = cursor_.read(next_, limit, epochMax_, kWalBytesMax, following_ && limit == following_->lsn);
  if (!piece) {
    if (piece.error().is("WALSHIP_ERR_ARENA_BUSY")) {
      std::this_thread::sleep_for(kArenaPause);
      return true;
    }
    if (!piece.error().is("WALSHIP_ERR_LOG_TRIMMED")) return piece.error();
    const std::string segment = walFileName(status_.timeline, next_, identity_->segmentBytes);
    return makeError("WALSHIP_ERR_LOG_TRIMMED", "requested WAL segment " + segment + " has already been removed");
  }
  const size_t bytes = piece.value().bytes;
  if (bytes == 0) {
    cursor_.release();
    return piece.value().newerEpoch ? lookForSwitch() : Result<bool>(false);
  }
  Buffer header;
  putCopyHeader(header, kWalDataHeaderBytes + bytes);
  encodeHeader(header, {next_, limit, postgresUs(), {}});
  std::vector<iovec>& parts = piece.value().parts;
  parts.insert(parts.begin(), {header.data(), header.size()});
  const ssize_t sent = channel_.send(parts);
  if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
    cursor_.release();
    return makeError("WALSHIP_ERR_LINK_CLOSED", "the connection to the client is broken");
  }
  // What the socket did not take is kept here: the page must not be held for a slow client.
  size_t taken = static_cast<size_t>(std::max<ssize_t>(sent, 0));
  for (const iovec& part : parts) {
    const size_t skip = std::min(taken, part.iov_len);
    taken -= skip;
    put(out_, Bytes(static_cast<const std::byte*>(part.iov_base), part.iov_len).subspan(skip));
  }
  cursor_.release();
  next_ += bytes;
  const std::lock_guard lock(statusMutex_);
  status_.sent = next_;
  return true;
}

// A newer epoch begins here: does a timeline, too? true: it is known now.
Result<bool> Session::lookForSwitch() {
  auto timelines = timelinesOf(engine_, sendable());
  if (!timelines) return timelines.error();
  const bool decided = timelines.value().decidedEpoch > epochMax_;
  epochMax_ = timelines.value().decidedEpoch;
  for (const TimelineStart& start : timelines.value().starts) {
    if (!following_ && start.lsn >= next_ && start.timeline > timeline_) following_ = start;
  }
  return decided;
}

// Says so, and takes what the client still had to say.
Session::Outcome Session::endOfTimeline() {
  putCopyDone(out_);
  if (auto sent = flush(); !sent) return sent;
  for (;;) {
    auto message = readMessage();
    if (!message) return message.error();
    if (message.value().type == 'c') return {};
    if (message.value().type == 'X') return makeError("WALSHIP_ERR_LINK_CLOSED", "the client ended the session");
    if (message.value().type != 'd') return fatal("08P01", "invalid standby message type");
    if (auto taken = takeReply(message.value()); !taken) return taken;
    if (auto sent = flush(); !sent) return sent;
  }
}

void Session::sendKeepAlive(bool replyWanted) {
  Buffer body;
  encode(body, KeepAlive{sendable(), postgresUs(), replyWanted});
  putCopyHeader(out_, body.size());
  put(out_, body);
}

Session::Outcome Session::takeReply(const Message& message) {
  auto parsed = parseStandbyMessage(message.body);
  if (!parsed) return fatal("08P01", parsed.error().message);
  if (const auto* feedback = std::get_if<HotStandbyFeedback>(&parsed.value())) {
    setHorizon(horizonOf(*feedback));
    return {};
  }
  const StandbyStatus& reply = std::get<StandbyStatus>(parsed.value());
  {
    const std::lock_guard lock(statusMutex_);
    status_.written = reply.written;
    status_.flushed = reply.flushed;
    status_.applied = reply.applied;
  }
  if (!slot_.empty() && reply.flushed != 0) static_cast<void>(engine_.readers().set("postgres:" + slot_, reply.flushed));
  if (reply.applied != 0) setApplied(reply.applied);
  if (reply.replyWanted) sendKeepAlive(false);
  return {};
}

// What the oldest snapshots on the standbys need is for the primary's server to know: it travels up the tree.
void Session::setHorizon(const Horizon& horizon) {
  const std::lock_guard lock(shared_.horizonMutex);
  const auto said = shared_.horizons.find(this);
  if (said == shared_.horizons.end() ? horizon == Horizon{} : horizon == said->second) return;
  if (horizon == Horizon{}) {
    shared_.horizons.erase(said);
  } else {
    shared_.horizons[this] = horizon;
  }
  Horizon all;
  for (const auto& [session, each] : shared_.horizons) all.include(each);
  engine_.pump().setHorizon(all);
}

// The node has applied what every standby here has.
void Session::setApplied(uint64_t lsn) {
  if (!settings_.standbyName.empty() && status_.applicationName != settings_.standbyName) return;
  if (engine_.counters()[kIsPrimary].load(std::memory_order_acquire) != 0) return;
  const std::lock_guard lock(shared_.appliedMutex);
  shared_.applied[this] = lsn;
  uint64_t all = lsn;
  for (const auto& [session, applied] : shared_.applied) all = std::min(all, applied);
  Pump& pump = engine_.pump();
  static_cast<void>(pump.appliedAwaited() ? pump.setApplied(all, cuts_) : pump.noteApplied(all, cuts_));
}

}  // namespace walship::postgres

#include "databases/postgres/session.h"

#include <poll.h>

#include "base/clock.h"

namespace walship::postgres {

namespace {

constexpr uint32_t kIdleMs = 1000;
constexpr uint64_t kIdleNs = kIdleMs * 1'000'000ull;

Error gone(const std::string& why) { return makeError("WALSHIP_ERR_LINK_CLOSED", why); }

}  // namespace

Session::~Session() {
  const std::lock_guard lock(shared_.appliedMutex);
  shared_.applied.erase(this);
}

void Session::stop() {
  stopping_.store(true);
  wake_.raise();
}

void Session::positionsMoved() {
  if (engine_.pump().appliedAwaited() && gathering_.exchange(false, std::memory_order_seq_cst)) wake_.raise();
  if (sendable() == looked_.load(std::memory_order_relaxed)) return;
  if (sleeping_.exchange(false, std::memory_order_seq_cst)) wake_.raise();
}

SessionStatus Session::status() {
  const std::lock_guard lock(statusMutex_);
  return status_;
}

void Session::run() {
  cuts_ = engine_.pump().cuts();
  static_cast<void>(serve());
  cursor_.release();
  channel_.close();
  {
    const std::lock_guard lock(shared_.appliedMutex);
    shared_.applied.erase(this);
  }
  setHorizon({});
  ended_.store(true, std::memory_order_release);
}

// ---- bytes in and out ----

Session::Outcome Session::sleep(uint64_t timeoutNs) {
  pollfd waited[2] = {{channel_.fd(), static_cast<short>(unsent() ? POLLIN | POLLOUT : POLLIN), 0},
                      {wake_.fd(), POLLIN, 0}};
  const timespec timeout{static_cast<time_t>(timeoutNs / 1'000'000'000), static_cast<long>(timeoutNs % 1'000'000'000)};
  ::ppoll(waited, 2, &timeout, nullptr);
  if (waited[1].revents != 0) wake_.clear();
  if (stopping_.load()) return makeError("WALSHIP_ERR_CLOSED", "the walsender is stopping");
  return {};
}

Session::Outcome Session::fill(bool wait) {
  if (inTaken_ > 0) {
    in_.erase(in_.begin(), in_.begin() + static_cast<ptrdiff_t>(inTaken_));
    inTaken_ = 0;
  }
  for (;;) {
    const size_t had = in_.size();
    in_.resize(had + Channel::kReceiveBytes);
    const ssize_t got = channel_.receive(MutableBytes(in_).subspan(had));
    in_.resize(had + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got > 0) {
      heardNs_ = monotonicNs();
      return {};
    }
    if (got == 0) return gone("the client closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return gone("the connection to the client is broken");
    if (!wait) return {};
    if (auto slept = sleep(kIdleNs); !slept) return slept;
    if (startUpByNs_ != 0 && monotonicNs() > startUpByNs_) return gone("the client did not start up in time");
  }
}

// Sends what can be sent now. true: something went out.
Result<bool> Session::trySend() {
  bool some = false;
  while (unsent()) {
    const ssize_t sent = channel_.send(Bytes(out_).subspan(outSent_));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return gone("the connection to the client is broken");
    if (sent < 0) return some;
    outSent_ += static_cast<size_t>(sent);
    some = true;
  }
  out_.clear();
  outSent_ = 0;
  return some;
}

// Sends all of what is left; blocks.
Session::Outcome Session::flush() {
  for (;;) {
    if (auto sent = trySend(); !sent) return sent.error();
    if (!unsent()) return {};
    pollfd waited[2] = {{channel_.fd(), POLLOUT, 0}, {cancel_.fd(), POLLIN, 0}};
    ::poll(waited, 2, static_cast<int>(kIdleMs));
    if (waited[1].revents != 0) return makeError("WALSHIP_ERR_CLOSED", "the walsender is stopping");
  }
}

Result<std::optional<Session::Message>> Session::tryMessage() {
  const Bytes rest = Bytes(in_).subspan(inTaken_);
  if (rest.size() < kMessageHeaderBytes) return std::optional<Message>{};
  auto header = parseMessageHeader(rest.first(kMessageHeaderBytes));
  if (!header) return header.error();
  const size_t whole = kMessageHeaderBytes + header.value().bodyBytes;
  if (rest.size() < whole) return std::optional<Message>{};
  const Bytes body = rest.subspan(kMessageHeaderBytes, header.value().bodyBytes);
  inTaken_ += whole;
  return std::optional(Message{header.value().type, {body.begin(), body.end()}});
}

Result<Session::Message> Session::readMessage() {
  for (;;) {
    auto message = tryMessage();
    if (!message) return message.error();
    if (message.value()) return std::move(*message.value());
    if (auto filled = fill(true); !filled) return filled.error();
  }
}

Session::Outcome Session::fatal(const char* sqlState, const std::string& message, const std::string& hint) {
  shared_.refused.fetch_add(1);
  putRefusal(out_, {"FATAL", sqlState, message, {}, hint});
  static_cast<void>(flush());
  return gone(message);
}

void Session::refuse(const char* sqlState, const std::string& message, const std::string& detail,
                     const std::string& hint) {
  putRefusal(out_, {"ERROR", sqlState, message, detail, hint});
}

Session::Outcome Session::serve() {
  auto started = startUp();
  if (!started) return started.error();
  if (!started.value()) return {};
  for (;;) {
    auto message = readMessage();
    if (!message) return message.error();
    switch (message.value().type) {
      case 'Q': {
        BigReader reader(message.value().body);
        std::string text;
        if (!reader.takeString(text) || !reader.done()) return fatal("08P01", "invalid message format");
        if (auto done = run(text); !done) {
          const Error& why = done.error();
          if (why.is("WALSHIP_ERR_LINK_CLOSED") || why.is("WALSHIP_ERR_CLOSED") || why.is("WALSHIP_ERR_TIMEOUT")) return done;
          // The log's own trouble, which is not the client's fault and may pass.
          refuse("XX000", why.message);
        }
        if (!std::exchange(answered_, false)) putReady(out_);
        if (auto sent = flush(); !sent) return sent;
        break;
      }
      case 'X': return {};
      case 'c':
      case 'd':
      case 'f': break;  // what was under way when a stream ended
      default:
        return fatal("08P01", "invalid frontend message type " +
                                  std::to_string(static_cast<unsigned char>(message.value().type)));
    }
  }
}

}  // namespace walship::postgres

// What a client wants of the server itself: base backups, by a connection of walship's own; ordinary connections and
// cancel requests as they come, the server being the one who asks for passwords.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "databases/postgres/session.h"

namespace walship::postgres {

namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr size_t kRelayBytes = 64u << 10;
constexpr const char* kClosed = "WALSHIP_ERR_LINK_CLOSED";

bool later() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

Result<Fd> connectUnix(const std::string& path, uint32_t timeoutMs) {
  const std::string where = "cannot connect to " + path;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return makeError("WALSHIP_ERR_CONNECT", where + ": the name is too long");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // Bounds connect(), which waits for room in the server's queue.
  const timeval timeout{timeoutMs / 1000, static_cast<suseconds_t>(timeoutMs % 1000 * 1000)};
  if (!socket.valid() || ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0 ||
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return systemError("WALSHIP_ERR_CONNECT", where, errno);
  }
  return socket;
}

}  // namespace

Result<Fd> Session::connectOrdinary() {
  const OrdinaryServer& to = *settings_.ordinary;
  if (to.host.starts_with('/')) {
    return connectUnix(to.host + "/.s.PGSQL." + std::to_string(to.port), settings_.connectTimeoutMs);
  }
  return connectTcp({to.host, to.port}, "", monotonicNs() + settings_.connectTimeoutMs * kMs, &stopping_);
}

// ---- ordinary connections ----

Session::Outcome Session::splice(const Startup& startup, Bytes packet) {
  if (!settings_.ordinary) {
    return fatal("0A000", "walship serves physical replication only; connect to the server itself for all else",
                 "Set serve.ordinary to have such connections passed on to the server beside the walship node.");
  }
  if (!seat_.take(shared_.ordinary, settings_.ordinary->sessionsMax)) {
    return fatal("53300", "sorry, too many clients already", "serve.ordinary.sessionsMax of walship is " +
                                                                 std::to_string(settings_.ordinary->sessionsMax) + ".");
  }
  auto server = connectOrdinary();
  // A client that knows other hosts goes on to the next one: PostgreSQL's cannot_connect_now.
  if (!server) return fatal("57P03", "the server beside the walship node cannot be reached: " + server.error().message);
  startUpByNs_ = 0;  // from here on the server sees to that
  {
    const std::lock_guard lock(statusMutex_);
    status_.user = startup.parameter("user");
    status_.applicationName = startup.parameter("application_name");
    status_.ordinary = true;
  }
  Buffer toServer(packet.begin(), packet.end());
  toServer.insert(toServer.end(), in_.begin() + static_cast<ptrdiff_t>(inTaken_), in_.end());
  return relay(server.value().get(), std::move(toServer), nullptr);
}

// The server closes without a word when it has done it, and only then does the client believe it.
Session::Outcome Session::passOnCancel(Bytes packet) {
  if (!settings_.ordinary) return {};
  auto server = connectOrdinary();
  if (!server) return server.error();
  return relay(server.value().get(), {packet.begin(), packet.end()}, nullptr);
}

// Bytes both ways, each taken when those before it are gone. Without `answer` until one side has closed and the other has
// what it had said; with it until it is complete: the client has nothing to say meanwhile but goodbye.
Session::Outcome Session::relay(int server, Buffer toServer, AnswerBounds* answer) {
  size_t taken = 0;
  bool clientEnded = false;
  bool serverEnded = false;
  for (;;) {
    if (auto sent = trySend(); !sent) {
      if (toServer.empty()) return sent.error();
      clientEnded = true;  // what it said before it left is still to be done
    }
    while (taken < toServer.size()) {
      const ssize_t sent = ::send(server, toServer.data() + taken, toServer.size() - taken, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && later()) break;
      if (sent < 0) taken = toServer.size();  // nobody there to read it; what the server said last is still to be read
      else taken += static_cast<size_t>(sent);
    }
    if (taken == toServer.size()) {
      toServer.clear();
      taken = 0;
    }
    if (!unsent() && answer != nullptr && answer->complete()) return {};
    if (!unsent() && serverEnded) return makeError("WALSHIP_ERR_POSTGRES_CONNECT", "the server closed the connection");
    if (clientEnded && toServer.empty()) return makeError(kClosed, "the client closed the connection");

    const bool fromClient = answer == nullptr && toServer.empty() && !clientEnded;
    const bool fromServer = !serverEnded && !unsent() && !clientEnded;
    short clientEvents = unsent() && !clientEnded ? POLLOUT : 0;
    if (fromClient) clientEvents |= POLLIN;
    if (answer != nullptr) clientEvents |= POLLRDHUP;
    const auto serverEvents = static_cast<short>((fromServer ? POLLIN : 0) | (toServer.empty() ? 0 : POLLOUT));
    pollfd waited[3] = {{clientEvents != 0 ? channel_.fd() : -1, clientEvents, 0},
                        {serverEvents != 0 ? server : -1, serverEvents, 0},
                        {cancel_.fd(), POLLIN, 0}};
    if (::poll(waited, 3, -1) < 0 && errno != EINTR) return systemError("WALSHIP_ERR_INTERNAL", "poll", errno);
    if (waited[2].revents != 0) return makeError("WALSHIP_ERR_CLOSED", "the walsender is stopping");
    if (answer != nullptr && (waited[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) {
      return makeError(kClosed, "the client closed the connection");
    }
    if (fromClient && waited[0].revents != 0) {
      toServer.resize(Channel::kReceiveBytes);
      const ssize_t got = channel_.receive(toServer);
      clientEnded = got == 0 || (got < 0 && !later());
      toServer.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
    }
    if (fromServer && waited[1].revents != 0) {
      out_.resize(kRelayBytes);
      const ssize_t got = ::recv(server, out_.data(), out_.size(), MSG_DONTWAIT);
      serverEnded = got == 0 || (got < 0 && !later());
      out_.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
      if (answer == nullptr) continue;
      auto mine = answer->take(out_);
      if (!mine) return mine.error();
      out_.resize(mine.value());
    }
  }
}

// ---- base backups ----

Result<Connection> Session::connectServer() {
  const uint64_t deadlineNs = monotonicNs() + settings_.connectTimeoutMs * kMs;
  auto server = Connection::open(settings_.server, status_.applicationName, deadlineNs, cancel_);
  if (!server) return server;
  auto row = server.value().query("IDENTIFY_SYSTEM", deadlineNs);
  if (!row) return row.error();
  auto known = identity();
  if (!known) return known.error();
  const std::string ours = std::to_string(known.value().systemId);
  if (row.value() && !row.value()->empty() && row.value()->front() == ours) return server;
  return makeError("WALSHIP_ERR_POSTGRES_FOREIGN",
                   "the server is of another database cluster than the WAL in this log, whose system identifier is " + ours);
}

// The server's answer as it comes, its errors and its ReadyForQuery included.
Session::Outcome Session::run(const BaseBackup& command) {
  if (settings_.server.empty()) {
    refuse("0A000", "cannot execute BASE_BACKUP: this walship node knows of no server to take one from", {},
           "Set serve.server to the connection string of the PostgreSQL server beside the node.");
    return {};
  }
  auto server = connectServer();
  if (!server) {
    if (server.error().is("WALSHIP_ERR_CLOSED")) return server.error();
    refuse("08006", "cannot execute BASE_BACKUP: the server beside the walship node cannot be asked",
           server.error().message, "Look at serve.server, and at that server.");
    return {};
  }
  if (server.value().encrypted()) {
    // libpq holds the keys, and has no way to pass bytes through.
    refuse("0A000", "cannot execute BASE_BACKUP: the connection to the server beside the walship node is encrypted", {},
           "Give its unix-domain socket in serve.server, or add sslmode=disable gssencmode=disable.");
    return {};
  }
  Buffer query;
  putQuery(query, command.text);
  Seat underWay;
  underWay.take(shared_.backups, UINT32_MAX);
  AnswerBounds answer;
  auto done = relay(server.value().socket(), std::move(query), &answer);
  if (done) {
    answered_ = true;
    return {};
  }
  if (!done.error().is("WALSHIP_ERR_POSTGRES_CONNECT")) return done;
  // In the middle of a message nothing can be said; behind its last error the server has said it itself.
  if (!answer.betweenMessages() || answer.lastType() == 'E') return makeError(kClosed, done.error().message);
  refuse("08006", "the server beside the walship node closed the connection");
  return {};
}

Result<void> Session::fetchHistory(uint32_t timeline) {
  auto server = connectServer();
  if (!server) return server.error();
  auto row = server.value().query("TIMELINE_HISTORY " + std::to_string(timeline),
                                  monotonicNs() + settings_.connectTimeoutMs * kMs);
  if (!row) return row.error();
  if (!row.value() || row.value()->size() < 2 || !row.value()->at(1)) {
    return makeError("WALSHIP_ERR_POSTGRES_PROTOCOL", "the server's answer to TIMELINE_HISTORY cannot be understood");
  }
  const std::string& text = *row.value()->at(1);
  auto ends = parseHistory(text);
  if (!ends) return ends.error();
  if (ends.value().empty() || ends.value().back().timeline >= timeline) {
    return makeError("WALSHIP_ERR_POSTGRES_HISTORY", "the server's " + historyFileName(timeline) + " is not of that timeline");
  }
  return storeHistory(engine_.settings().log.dir, timeline, text);
}

}  // namespace walship::postgres

#include "databases/postgres/sender.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace walship::postgres {

namespace {

constexpr size_t kStartingMax = 32;  // of those that have not said what they are, or want to cancel
constexpr int kReapMs = 1000;

Result<Fd> listenOn(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return makeError("WALSHIP_ERR_LISTEN", path + " is too long for the name of a socket: use a shorter directory");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const auto* name = reinterpret_cast<const sockaddr*>(&address);
  {
    const Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (probe.valid() && ::connect(probe.get(), name, sizeof address) == 0) {
      return makeError("WALSHIP_ERR_LISTEN", "somebody listens on " + path + " already: use another directory or port");
    }
  }
  static_cast<void>(::unlink(path.c_str()));  // left over by a process that was killed
  Fd listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listening.valid() || ::bind(listening.get(), name, sizeof address) != 0 || ::listen(listening.get(), 16) != 0) {
    return systemError("WALSHIP_ERR_LISTEN", "cannot listen on " + path, errno);
  }
  // Who may is found out by asking the kernel who connects.
  if (::chmod(path.c_str(), 0777) != 0) return systemError("WALSHIP_ERR_LISTEN", "cannot open " + path + " to all", errno);
  return listening;
}

}  // namespace

Result<std::unique_ptr<Sender>> Sender::open(Engine& engine, SenderSettings settings) {
  WALSHIP_ASSERT(engine.settings().appliedByHand);
  auto cancel = Wakeup::create();
  if (!cancel) return cancel.error();
  std::unique_ptr<Sender> sender(new Sender(engine, std::move(settings), cancel.take()));
  Sender& self = *sender;
  if (auto prepared = self.prepare(); !prepared) return prepared.error();
  self.observer_ = engine.pump().observe([&self] {
    const std::lock_guard lock(self.mutex_);
    for (const Running& running : self.sessions_) running.session->positionsMoved();
  });
  self.thread_ = std::thread([&self] { self.run(); });
  return sender;
}

Result<void> Sender::prepare() {
  for (const SenderRole& role : settings_.roles) {
    auto verifier = parseVerifier(role.verifier);
    if (!verifier) return makeError(verifier.error().code, "role '" + role.name + "': " + verifier.error().message);
    shared_.roles[role.name] = verifier.take();
  }
  ScramKey& secret = shared_.mockSecret;
  if (::getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    return systemError("WALSHIP_ERR_INTERNAL", "no random bytes", errno);
  }
  if (settings_.tls) {
    auto tls = TlsContext::open(settings_.tls->certFile, settings_.tls->keyFile);
    if (!tls) return tls.error();
    shared_.tls = tls.take();
  }
  if (settings_.listen) {
    auto listening = listenTcp(*settings_.listen);
    if (!listening) return listening.error();
    listeningTcp_ = listening.take();
  }
  auto listening = listenOn(settings_.socketPath());
  if (!listening) return listening.error();
  listening_ = listening.take();
  return {};
}

Sender::~Sender() { stop(); }

void Sender::stop() {
  if (!thread_.joinable()) return;
  cancel_.raise();
  thread_.join();
  engine_.pump().unobserve(observer_);
  reap(true);
  static_cast<void>(::unlink(settings_.socketPath().c_str()));
}

void Sender::reap(bool all) {
  std::list<Running> gone;
  {
    const std::lock_guard lock(mutex_);
    for (auto entry = sessions_.begin(); entry != sessions_.end();) {
      const auto next = std::next(entry);
      if (all) entry->session->stop();
      if (all || entry->session->ended()) gone.splice(gone.end(), sessions_, entry);
      entry = next;
    }
  }
  for (Running& running : gone) running.thread.join();
}

void Sender::run() {
  for (;;) {
    pollfd waited[3] = {{listening_.get(), POLLIN, 0}, {listeningTcp_.get(), POLLIN, 0}, {cancel_.fd(), POLLIN, 0}};
    ::poll(waited, 3, kReapMs);
    if (waited[2].revents != 0) return;
    reap(false);
    if (waited[0].revents != 0) accept(listening_, false);
    if (waited[1].revents != 0) accept(listeningTcp_, true);
  }
}

void Sender::accept(const Fd& listening, bool remote) {
  Fd socket(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) return;
  if (remote) {
    const int on = 1;
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  }
  auto wake = Wakeup::create();
  const size_t most = kStartingMax + kWalsendersMax + (settings_.ordinary ? settings_.ordinary->sessionsMax : 0);
  const std::lock_guard lock(mutex_);
  if (!wake || sessions_.size() >= most) {
    shared_.refused.fetch_add(1);
    return;
  }
  Running running;
  running.session =
      std::make_unique<Session>(engine_, settings_, shared_, cancel_, std::move(socket), remote, wake.take());
  Session& session = *running.session;
  running.thread = std::thread([&session] { session.run(); });
  sessions_.push_back(std::move(running));
}

SenderStatus Sender::status() {
  SenderStatus status;
  status.socketPath = settings_.socketPath();
  if (listeningTcp_.valid()) status.listen = formatAddress({settings_.listen->host, localPort(listeningTcp_.get())});
  status.ordinary = shared_.ordinary.load();
  status.refused = shared_.refused.load();
  {
    const std::lock_guard lock(mutex_);
    status.identity = identity_;
  }
  if (!status.identity) {
    auto identity = identityOf(engine_);
    if (identity) {
      status.identity = identity.value();
    } else {
      status.problem = identity.error();
    }
  }
  const std::lock_guard lock(mutex_);
  identity_ = status.identity;
  for (const Running& running : sessions_) {
    if (running.session->ended()) continue;
    SessionStatus session = running.session->status();
    if (!session.ordinary && !session.user.empty()) status.sessions.push_back(std::move(session));
  }
  return status;
}

}  // namespace walship::postgres

#include "databases/postgres/sender.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace walship::postgres {

namespace {

constexpr size_t kSessionsMax = 64;
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
  auto listening = listenOn(settings.socketPath());
  if (!listening) return listening.error();
  std::unique_ptr<Sender> sender(new Sender(engine, std::move(settings), listening.take(), cancel.take()));
  Sender& self = *sender;
  self.observer_ = engine.pump().observe([&self] {
    const std::lock_guard lock(self.mutex_);
    for (const Running& running : self.sessions_) running.session->positionsMoved();
  });
  self.thread_ = std::thread([&self] { self.run(); });
  return sender;
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
    pollfd waited[2] = {{listening_.get(), POLLIN, 0}, {cancel_.fd(), POLLIN, 0}};
    ::poll(waited, 2, kReapMs);
    if (waited[1].revents != 0) return;
    reap(false);
    Fd socket(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid()) continue;
    auto wake = Wakeup::create();
    const std::lock_guard lock(mutex_);
    if (!wake || sessions_.size() >= kSessionsMax) {
      shared_.refused.fetch_add(1);
      continue;
    }
    Running running;
    running.session = std::make_unique<Session>(engine_, settings_, shared_, std::move(socket), wake.take());
    Session& session = *running.session;
    running.thread = std::thread([&session] { session.run(); });
    sessions_.push_back(std::move(running));
  }
}

SenderStatus Sender::status() {
  SenderStatus status;
  status.socketPath = settings_.socketPath();
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
    if (!running.session->ended()) status.sessions.push_back(running.session->status());
  }
  return status;
}

}  // namespace walship::postgres

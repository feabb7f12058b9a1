#include "fabric/setup.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <random>

#include "base/clock.h"
#include "fabric/tcp/tcp_link.h"
#include "fabric/verbs/connect.h"

namespace walship {

namespace {

// How long a caller may keep its place while others wait for one.
constexpr uint64_t kPatienceNs = 200'000'000;

uint64_t deadlineIn(uint32_t milliseconds) { return monotonicNs() + uint64_t{milliseconds} * 1'000'000; }

// Several devices: the one whose GID is the address that the connection itself uses, so that RDMA goes the same way.
const std::shared_ptr<Device>& deviceFor(const SetupSettings& settings, int connection, const std::string& wanted) {
  WALSHIP_ASSERT(!settings.devices.empty());  // else verbs is not offered
  const std::string local = localHost(connection);
  for (const auto& device : settings.devices) {
    if (wanted.empty() ? device->choice().gid.address == local : device->choice().device == wanted) return device;
  }
  return settings.devices.front();
}

Result<Established> finish(Fd connection, const Peer& peer, const SetupSettings& settings, const std::string& wantedDevice,
                           uint64_t deadlineNs) {
  const std::string remote = peerName(connection.get());
  if (peer.transport == kTransportVerbs) {
    const auto& device = deviceFor(settings, connection.get(), wantedDevice);
    auto link = connectVerbs(device, std::move(connection), deadlineNs);
    if (!link) return link.error();
    return Established{link.take(), peer.node, "verbs:" + device->choice().device + "@" + remote};
  }
  return Established{std::make_unique<TcpLink>(std::move(connection)), peer.node, "tcp@" + remote};
}

uint32_t jittered(uint32_t milliseconds) {
  thread_local std::minstd_rand random(std::random_device{}());
  return milliseconds * 3 / 4 + static_cast<uint32_t>(random() % (milliseconds / 2 + 1));
}

}  // namespace

// ---- Listener ----

Result<std::unique_ptr<Listener>> Listener::start(const Address& address, SetupSettings settings, OnLink onLink,
                                                  OnError onError) {
  auto socket = listenTcp(address);
  if (!socket) return socket.error();
  Fd wake(::eventfd(0, EFD_CLOEXEC));
  if (!wake.valid()) return systemError("WALSHIP_ERR_LISTEN", "cannot make an eventfd", errno);
  return std::unique_ptr<Listener>(
      new Listener(socket.take(), std::move(wake), std::move(settings), std::move(onLink), std::move(onError)));
}

Listener::Listener(Fd socket, Fd wake, SetupSettings settings, OnLink onLink, OnError onError)
    : socket_(std::move(socket)),
      wake_(std::move(wake)),
      settings_(std::move(settings)),
      onLink_(std::move(onLink)),
      onError_(std::move(onError)),
      port_(localPort(socket_.get())),
      thread_([this] { accept(); }) {}

Listener::~Listener() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const Caller& caller : authenticating_) ::shutdown(caller.fd, SHUT_RDWR);
  }
  pendingMoved_.notify_all();
  const uint64_t one = 1;
  WALSHIP_ASSERT(::write(wake_.get(), &one, sizeof one) == sizeof one);
  thread_.join();
  // Hand-shakes under way end by their deadline.
  std::unique_lock lock(mutex_);
  pendingMoved_.wait(lock, [&] { return pending_ == 0; });
}

void Listener::accept() {
  while (true) {
    pollfd entries[2] = {{socket_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0 && errno != EINTR) return;
    if (entries[1].revents != 0 || !makeRoom()) return;
    Fd connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!connection.valid()) {
      if (errno == EMFILE || errno == ENFILE) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      ++pending_;
    }
    std::thread([this, connection = std::move(connection)]() mutable {
      establish(std::move(connection));
      const std::lock_guard lock(mutex_);
      --pending_;
      pendingMoved_.notify_all();
    }).detach();  // counted in pending_; the destructor waits for all
  }
}

bool Listener::makeRoom() {
  std::unique_lock lock(mutex_);
  while (!stopping_ && pending_ >= kPendingMax) {
    const auto silent = std::find_if(authenticating_.begin(), authenticating_.end(),
                                     [](const Caller& caller) { return !caller.dropped; });
    if (silent != authenticating_.end() && elapsedNs(silent->sinceNs, monotonicNs()) > kPatienceNs) {
      ::shutdown(silent->fd, SHUT_RDWR);
      silent->dropped = true;
    }
    pendingMoved_.wait_for(lock, std::chrono::milliseconds(10));
  }
  return !stopping_;
}

void Listener::establish(Fd connection) {
  const std::string from = peerName(connection.get());
  const uint64_t deadline = deadlineIn(settings_.setupTimeoutMs);
  const int fd = connection.get();
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    authenticating_.push_back({fd, monotonicNs(), false});
  }
  auto peer = shakeHandsAsListener(fd, settings_.identity, deadline);
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(authenticating_, [&](const Caller& caller) { return caller.fd == fd; });
  }
  if (!peer) return onError_(from, peer.error());
  auto established = finish(std::move(connection), peer.value(), settings_, {}, deadline);
  if (!established) return onError_(from, established.error());
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
  }
  onLink_(established.take());
}

// ---- Connector ----

Connector::Connector(SetupSettings settings, OnLink onLink, OnError onError)
    : settings_(std::move(settings)),
      onLink_(std::move(onLink)),
      onError_(std::move(onError)),
      backoffMs_(settings_.reconnectMsMin),
      thread_([this] { run(); }) {}

Connector::~Connector() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    cancelTry();
  }
  moved_.notify_all();
  thread_.join();
}

void Connector::cancelTry() {
  cancelled_.store(true);
  ++generation_;
  if (underWay_.valid()) ::shutdown(underWay_.get(), SHUT_RDWR);
}

void Connector::tryAtOnce() {
  atOnce_ = true;
  backoffMs_ = settings_.reconnectMsMin;
  moved_.notify_all();
}

void Connector::follow(std::optional<ConnectTarget> target) {
  const std::lock_guard lock(mutex_);
  target_ = std::move(target);
  cancelTry();
  wanted_ = target_.has_value();
  tryAtOnce();
}

bool Connector::retryIfFollowing(const ConnectTarget& target) {
  const std::lock_guard lock(mutex_);
  if (target_ != target) return false;
  if (wanted_) tryAtOnce();
  return true;
}

void Connector::restart() {
  const std::lock_guard lock(mutex_);
  if (!wanted_) return;
  cancelTry();
  tryAtOnce();
}

void Connector::reconnect(bool soon) {
  const std::lock_guard lock(mutex_);
  wanted_ = target_.has_value();
  if (soon) tryAtOnce();
  moved_.notify_all();
}

void Connector::run() {
  Identity identity = settings_.identity;
  bool verbsFailed = false;
  std::unique_lock lock(mutex_);
  while (true) {
    moved_.wait(lock, [&] { return stopping_ || wanted_; });
    if (stopping_) return;
    const uint64_t generation = generation_;
    const auto changed = [&] { return stopping_ || generation != generation_; };
    if (!atOnce_) {
      const uint32_t pause = jittered(backoffMs_);
      backoffMs_ = std::min(backoffMs_ * 2, settings_.reconnectMsMax);
      moved_.wait_for(lock, std::chrono::milliseconds(pause), [&] { return changed() || atOnce_; });
      if (changed()) continue;
    }
    atOnce_ = false;
    const ConnectTarget target = *target_;
    const uint8_t wanted = target.transports == 0 ? settings_.identity.transports
                                                  : static_cast<uint8_t>(settings_.identity.transports & target.transports);
    // A fabric that cannot be reached must not keep a standby away: the next try goes over TCP, the one after that over
    // verbs again.
    identity.transports = verbsFailed && (wanted & kTransportTcp) != 0 ? uint8_t{kTransportTcp} : wanted;
    cancelled_.store(false);
    lock.unlock();

    const uint64_t deadline = deadlineIn(settings_.setupTimeoutMs);
    Result<Established> outcome = makeError("WALSHIP_ERR_CONNECT", "");
    auto connection = connectTcp(target.address, target.source, deadline, &cancelled_);
    if (!connection) {
      outcome = connection.error();
    } else {
      const int fd = connection.value().get();
      lock.lock();
      underWay_ = Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
      if (changed()) ::shutdown(fd, SHUT_RDWR);
      lock.unlock();
      auto peer = shakeHandsAsConnector(fd, identity, target.node, deadline);
      if (peer) {
        outcome = finish(connection.take(), peer.value(), settings_, target.device, deadline);
      } else {
        outcome = peer.error();
      }
      verbsFailed = !outcome && peer && peer.value().transport == kTransportVerbs;
    }
    lock.lock();
    underWay_.reset();
    if (!outcome && !changed()) {
      lock.unlock();
      onError_(outcome.error());
      lock.lock();
    }
    if (changed()) continue;
    if (outcome) {
      wanted_ = false;
      // With the mutex held: after follow() has returned no link to the old target is handed over any more.
      onLink_(outcome.take());
    }
  }
}

}  // namespace walship

#include "fabric/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "base/clock.h"

namespace walship {

namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using AddressList = std::unique_ptr<addrinfo, FreeAddresses>;

Result<AddressList> resolve(const Address& address, bool passive) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* list = nullptr;
  const std::string port = std::to_string(address.port);
  const int failed =
      ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(), port.c_str(), &hints, &list);
  if (failed != 0) {
    return makeError("WALSHIP_ERR_ADDRESS", "cannot resolve '" + address.host + "': " + ::gai_strerror(failed));
  }
  return AddressList(list);
}

// Waits until `fd` is ready for `events`. The deadline is on the monotonic clock.
Result<void> waitReady(int fd, short events, uint64_t deadlineNs, const std::atomic<bool>* cancelled = nullptr) {
  constexpr uint64_t kSliceMs = 50;  // how long a cancellation may go unnoticed
  while (true) {
    const uint64_t now = monotonicNs();
    if (now >= deadlineNs || (cancelled != nullptr && cancelled->load())) return makeError("WALSHIP_ERR_TIMEOUT", "the peer did not answer in time");
    pollfd entry{fd, events, 0};
    const uint64_t leftMs = (deadlineNs - now) / 1'000'000 + 1;
    const int ready = ::poll(&entry, 1, static_cast<int>(cancelled != nullptr ? std::min(leftMs, kSliceMs) : leftMs));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return systemError("WALSHIP_ERR_CONNECT", "poll failed", errno);
  }
}

std::string nameOf(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "?";
  }
  uint16_t number = 0;
  std::from_chars(port, port + std::strlen(port), number);
  return formatAddress({host, number});
}

}  // namespace

Result<Address> parseAddress(const std::string& text) {
  const auto bad = [&](const char* why) {
    return makeError("WALSHIP_ERR_ADDRESS", "'" + text + "' is not an address (" + why + "); write host:port or [ipv6]:port");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return bad("the port is missing");
  Address address;
  address.host = text.substr(0, colon);
  if (address.host.size() >= 2 && address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return bad("an IPv6 address goes into brackets");
  }
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + colon + 1, end, address.port);
  if (parsed.ec != std::errc{} || parsed.ptr != end) return bad("the port is not a number from 0 to 65535");
  return address;
}

std::string formatAddress(const Address& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

Result<Fd> connectTcp(const Address& to, const std::string& source, uint64_t deadlineNs,
                      const std::atomic<bool>* cancelled) {
  auto targets = resolve(to, false);
  if (!targets) return targets.error();
  Error last = makeError("WALSHIP_ERR_CONNECT", "no address for " + formatAddress(to));
  for (const addrinfo* target = targets.value().get(); target != nullptr; target = target->ai_next) {
    Fd fd(::socket(target->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return systemError("WALSHIP_ERR_CONNECT", "cannot make a socket", errno);
    if (!source.empty()) {
      auto from = resolve({source, 0}, true);
      if (!from) return from.error();
      if (::bind(fd.get(), from.value()->ai_addr, from.value()->ai_addrlen) != 0) {
        last = systemError("WALSHIP_ERR_CONNECT", "cannot bind to the source address " + source, errno);
        continue;
      }
    }
    if (::connect(fd.get(), target->ai_addr, target->ai_addrlen) != 0 && errno != EINPROGRESS) {
      last = systemError("WALSHIP_ERR_CONNECT", "cannot connect to " + formatAddress(to), errno);
      continue;
    }
    auto ready = waitReady(fd.get(), POLLOUT, deadlineNs, cancelled);
    if (!ready) return ready.error();
    int number = 0;
    socklen_t length = sizeof number;
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &number, &length);
    if (number != 0) {
      last = systemError("WALSHIP_ERR_CONNECT", "cannot connect to " + formatAddress(to), number);
      continue;
    }
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
  }
  return last;
}

Result<Fd> listenTcp(const Address& on) {
  auto targets = resolve(on, true);
  if (!targets) return targets.error();
  const addrinfo* target = targets.value().get();
  Fd fd(::socket(target->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int yes = 1;
  if (!fd.valid() || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      ::bind(fd.get(), target->ai_addr, target->ai_addrlen) != 0 || ::listen(fd.get(), 128) != 0) {
    return systemError("WALSHIP_ERR_LISTEN", "cannot listen on " + formatAddress(on), errno);
  }
  return fd;
}

Result<void> readFully(int fd, MutableBytes into, uint64_t deadlineNs) {
  size_t done = 0;
  while (done < into.size()) {
    const ssize_t got = ::recv(fd, into.data() + done, into.size() - done, MSG_DONTWAIT);
    if (got > 0) {
      done += static_cast<size_t>(got);
    } else if (got == 0) {
      return makeError("WALSHIP_ERR_LINK_CLOSED", "the peer closed the connection during set-up");
    } else if (errno == EAGAIN || errno == EINTR) {
      if (auto ready = waitReady(fd, POLLIN, deadlineNs); !ready) return ready.error();
    } else {
      return systemError("WALSHIP_ERR_LINK_CLOSED", "the connection failed during set-up", errno);
    }
  }
  return {};
}

Result<void> writeFully(int fd, Bytes from, uint64_t deadlineNs) {
  size_t done = 0;
  while (done < from.size()) {
    const ssize_t put = ::send(fd, from.data() + done, from.size() - done, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (put >= 0) {
      done += static_cast<size_t>(put);
    } else if (errno == EAGAIN || errno == EINTR) {
      if (auto ready = waitReady(fd, POLLOUT, deadlineNs); !ready) return ready.error();
    } else {
      return systemError("WALSHIP_ERR_LINK_CLOSED", "the connection failed during set-up", errno);
    }
  }
  return {};
}

std::string localName(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 ? nameOf(address, length) : "?";
}

std::string peerName(int fd) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  return ::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0 ? nameOf(address, length) : "?";
}

std::string localHost(int fd) {
  const auto address = parseAddress(localName(fd));
  if (!address) return {};
  const std::string& host = address.value().host;
  return host.starts_with("::ffff:") ? host.substr(7) : host;
}

uint16_t localPort(int fd) {
  const auto address = parseAddress(localName(fd));
  return address ? address.value().port : uint16_t{0};
}

}  // namespace walship

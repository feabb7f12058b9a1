// Blocking-with-deadline TCP for the set-up of links. Never used on the hot path.
#pragma once

#include <atomic>
#include <string>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"

namespace walship {

struct Address {
  std::string host;  // name, IPv4, or IPv6 without brackets
  uint16_t port = 0;
  bool operator==(const Address&) const = default;
};

// "host:port" or "[v6]:port". Error: WALSHIP_ERR_ADDRESS.
Result<Address> parseAddress(const std::string& text);
std::string formatAddress(const Address& address);

// Errors of all: WALSHIP_ERR_CONNECT (nobody there, refused), WALSHIP_ERR_TIMEOUT, WALSHIP_ERR_LINK_CLOSED.
// `source`: local address to bind to, empty for any.
// `cancelled`, if given, ends the wait early.
Result<Fd> connectTcp(const Address& to, const std::string& source, uint64_t deadlineNs,
                      const std::atomic<bool>* cancelled = nullptr);
Result<Fd> listenTcp(const Address& on);  // WALSHIP_ERR_LISTEN
Result<void> readFully(int fd, MutableBytes into, uint64_t deadlineNs);
Result<void> writeFully(int fd, Bytes from, uint64_t deadlineNs);

std::string localName(int fd);
std::string localHost(int fd);  // without the port; IPv4 also where it comes mapped into IPv6
std::string peerName(int fd);
uint16_t localPort(int fd);

}  // namespace walship

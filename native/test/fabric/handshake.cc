#include "fabric/handshake.h"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <thread>
#include <vector>

#include "base/clock.h"
#include "fabric/socket.h"

using namespace walship;

namespace {

struct Pair {
  Fd one, other;
  Pair() {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    one = Fd(fds[0]);
    other = Fd(fds[1]);
  }
};

uint64_t soon() { return monotonicNs() + 2'000'000'000; }

Identity node(const char* name) { return {"cluster", name, "a secret of the cluster", kTransportTcp}; }

struct Outcome {
  Result<Peer> connector = makeError("", "");
  Result<Peer> listener = makeError("", "");
};

Outcome shake(const Identity& connecting, const Identity& listening, const std::string& expected = "") {
  Pair pair;
  Outcome outcome;
  std::thread listener([&] {
    outcome.listener = shakeHandsAsListener(pair.other.get(), listening, soon());
    pair.other.reset();
  });
  outcome.connector = shakeHandsAsConnector(pair.one.get(), connecting, expected, soon());
  pair.one.reset();
  listener.join();
  return outcome;
}

}  // namespace

TEST_CASE("hand-shake: two nodes of a cluster know each other afterwards") {
  const Outcome outcome = shake(node("a"), node("b"));
  REQUIRE(outcome.connector);
  REQUIRE(outcome.listener);
  CHECK(outcome.connector.value().node == "b");
  CHECK(outcome.listener.value().node == "a");
  CHECK(outcome.connector.value().transport == kTransportTcp);
}

TEST_CASE("hand-shake: verbs is chosen when both offer it") {
  Identity one = node("a"), other = node("b");
  one.transports = other.transports = kTransportTcp | kTransportVerbs;
  CHECK(shake(one, other).listener.value().transport == kTransportVerbs);
  other.transports = kTransportTcp;
  CHECK(shake(one, other).listener.value().transport == kTransportTcp);
  one.transports = kTransportVerbs;
  CHECK(shake(one, other).connector.error().is("WALSHIP_ERR_TRANSPORT"));
}

TEST_CASE("hand-shake: each mistake has its own name, on both sides") {
  Identity wrong = node("a");
  wrong.secret = "another secret of 16";
  CHECK(shake(wrong, node("b")).connector.error().is("WALSHIP_ERR_AUTH"));
  CHECK(shake(wrong, node("b")).listener.error().is("WALSHIP_ERR_AUTH"));
  wrong = node("a");
  wrong.cluster = "elsewhere";
  CHECK(shake(wrong, node("b")).connector.error().is("WALSHIP_ERR_CLUSTER"));
  CHECK(shake(wrong, node("b")).listener.error().is("WALSHIP_ERR_CLUSTER"));
  CHECK(shake(node("b"), node("b")).connector.error().is("WALSHIP_ERR_NODE"));
  CHECK(shake(node("a"), node("b"), "c").connector.error().is("WALSHIP_ERR_NODE"));
  CHECK(shake(node("a"), node("b"), "c").listener.error().is("WALSHIP_ERR_NODE"));
}

TEST_CASE("hand-shake: another protocol version is told so") {
  Pair pair;
  std::thread listener([&] { CHECK(shakeHandsAsListener(pair.other.get(), node("b"), soon()).error().is("WALSHIP_ERR_PROTOCOL_VERSION")); });
  // A hello of version 1: magic, type, version, length 0.
  const std::array<uint8_t, 9> hello{'W', 'S', 'H', 'P', 1, 1, 0, 0, 0};
  REQUIRE(writeFully(pair.one.get(), std::as_bytes(std::span(hello)), soon()));
  listener.join();
  std::array<std::byte, 64> answer{};
  REQUIRE(readFully(pair.one.get(), MutableBytes(answer).first(kSetupHeaderBytes), soon()));
  CHECK(answer[4] == std::byte{5});  // a refusal
}

TEST_CASE("hand-shake: a silent or talkative stranger costs no more than the deadline") {
  Pair pair;
  const uint64_t start = monotonicNs();
  CHECK(shakeHandsAsListener(pair.other.get(), node("b"), start + 100'000'000).error().is("WALSHIP_ERR_TIMEOUT"));
  CHECK(monotonicNs() - start < 1'000'000'000);
  const std::string http = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
  REQUIRE(writeFully(pair.one.get(), std::as_bytes(std::span(http)), soon()));
  CHECK(shakeHandsAsListener(pair.other.get(), node("b"), soon()).error().is("WALSHIP_ERR_PROTOCOL"));
}

TEST_CASE("hand-shake: a replayed proof is worth nothing") {
  // Records what a true connector says, and says it again on a new connection.
  std::vector<std::byte> recorded;
  {
    Pair outer, inner;
    std::thread listener([&] { static_cast<void>(shakeHandsAsListener(inner.other.get(), node("b"), soon())); });
    std::thread relay([&] {
      std::array<std::byte, 512> buffer;
      const uint64_t until = monotonicNs() + 500'000'000;
      while (monotonicNs() < until) {
        const ssize_t up = ::recv(outer.other.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (up > 0) {
          recorded.insert(recorded.end(), buffer.begin(), buffer.begin() + up);
          static_cast<void>(::send(inner.one.get(), buffer.data(), static_cast<size_t>(up), 0));
        }
        const ssize_t down = ::recv(inner.one.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (down > 0) static_cast<void>(::send(outer.other.get(), buffer.data(), static_cast<size_t>(down), 0));
      }
    });
    CHECK(shakeHandsAsConnector(outer.one.get(), node("a"), "", soon()));
    listener.join();
    relay.join();
  }
  Pair again;
  REQUIRE(writeFully(again.one.get(), recorded, soon()));
  CHECK(shakeHandsAsListener(again.other.get(), node("b"), soon()).error().is("WALSHIP_ERR_AUTH"));
}

TEST_CASE("addresses: host, IPv4, bracketed IPv6, and what is none") {
  CHECK(parseAddress("db1:7000").value().port == 7000);
  CHECK(parseAddress("[::1]:80").value().host == "::1");
  CHECK(formatAddress({"::1", 80}) == "[::1]:80");
  for (const char* bad : {"db1", "::1:80", "db1:70000", "db1:x", ":"}) CHECK(parseAddress(bad).ok() == false);
}

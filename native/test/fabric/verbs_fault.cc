// What goes wrong between two rxe devices of the lab, and what the link says about it and when.
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>

#include "fabric/verbs/endpoint.h"
#include "test/fabric/verbs_lab.h"

using namespace walship;
using namespace walship::lab;

namespace {

// Puts a node's wire back in order however the test ends.
struct Wire {
  ~Wire() {
    static_cast<void>(std::system("walship-lab heal 2; walship-lab clear 2; walship-lab up 2"));
    // A port that was down is not active at once.
    for (const uint64_t deadline = inMs(5000); monotonicNs() < deadline;) {
      if (chooseRails(verbsCapabilities(), settingsFor(1)).ok()) break;
    }
  }
};

bool pollUntil(Link& link, const std::function<bool()>& done, uint64_t timeoutMs) {
  for (const uint64_t deadline = inMs(timeoutMs); !done();) {
    link.flush();
    link.poll();
    if (monotonicNs() > deadline) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("verbs lab: a cut wire brings the link down within the retries") {
  if (absent()) return;
  const Wire wire;
  Pair pair;
  command("walship-lab cut 2");
  REQUIRE(pair.up->send(bytesOfText("into the void")));
  pair.up->flush();
  const uint64_t begin = monotonicNs();
  REQUIRE(pollUntil(
      *pair.up, [&] { return pair.atUp.downs > 0; }, 10'000));
  MESSAGE("down after ", (pair.atUp.downNs - begin) / kMs, " ms: ", pair.atUp.down.message);
  CHECK(pair.atUp.down.is("WALSHIP_ERR_LINK_BROKEN"));
  CHECK(pair.atUp.down.message.find("transport retry counter exceeded") != std::string::npos);
  CHECK(pair.atUp.down.message.find(pair.up->rail().device) != std::string::npos);
  CHECK(pair.atUp.downNs - begin < 5000 * kMs);
  pair.up.reset();
  // The control connection runs over loopback here, so the other end hears of it.
  REQUIRE(pollUntil(
      *pair.downstream, [&] { return pair.atDown.downs > 0; }, 1000));
  CHECK(pair.atDown.down.is("WALSHIP_ERR_LINK_CLOSED"));
}

// Mild disorder: with every fourth packet out of order a reliable connection ends by RETRY_EXC like one that
// is cut.
TEST_CASE("verbs lab: a short cut, loss and disorder are healed by the device") {
  if (absent()) return;
  const Wire wire;
  Pair pair(512, 16);  // 268 ms a try: the commands of the lab are slow beside what they cut
  const uint32_t pageBytes = 1u << 20;
  fillRandom(pair.a->arena.bytes(), 5);
  const auto round = [&](uint32_t grant, const std::string& fault) {
    CAPTURE(fault);
    command("walship-lab " + fault);
    const uint64_t begin = monotonicNs();
    std::byte* page = pair.b->arena.at((grant - 1) * pageBytes);
    const RemotePage remote = pair.downstream->expect(grant, page, 0, pageBytes);
    const size_t before = pair.atDown.events.size();
    for (uint32_t offset = 0; offset < pageBytes; offset += 64u << 10) {
      REQUIRE(pair.up->ship({pair.a->arena.at((grant - 1) * pageBytes + offset), 64u << 10}, grant, remote, offset));
    }
    REQUIRE_MESSAGE(
        pair.pump([&] { return pair.atDown.events.size() == before + 16 || pair.atUp.downs > 0; }, 60'000),
        pair.atDown.events.size());
    REQUIRE_MESSAGE(pair.atUp.downs == 0, pair.atUp.down.message);
    MESSAGE(fault, ": 1 MiB in ", (monotonicNs() - begin) / kMs, " ms");
  };
  round(1, "cut 2 0.1");
  round(2, "netem 2 loss 1%");
  round(3, "netem 2 delay 1ms reorder 99%");
  round(4, "netem 2 duplicate 5%");
  round(5, "netem 2 corrupt 1%");
  CHECK(std::equal(pair.a->arena.at(0), pair.a->arena.at(5 * pageBytes), pair.b->arena.at(0)));
}

TEST_CASE("verbs lab: the own port going down is known at once") {
  if (absent()) return;
  const Wire wire;
  Pair pair;
  const uint64_t begin = monotonicNs();
  command("walship-lab down 2");
  REQUIRE(pollUntil(
      *pair.downstream, [&] { return pair.atDown.downs > 0; }, 2000));
  MESSAGE("down ", (pair.atDown.downNs - begin) / kMs,
          " ms after the command began: ", pair.atDown.down.message);
  CHECK(pair.atDown.down.is("WALSHIP_ERR_LINK_BROKEN"));
}

TEST_CASE("verbs lab: a killed peer is known at once") {
  if (absent()) return;
  auto [mine, its] = controlPair();
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // No doctest here: an assertion that fails would run the rest of the tests twice.
    mine.reset();
    Region arena(1u << 20);
    auto device = Device::openAll(settingsFor(1));
    if (!device.ok() || !device.value().front()->registerArena(arena.bytes()).ok()) ::_exit(1);
    auto link = connectVerbs(device.value().front(), std::move(its), inMs(10'000));
    if (!link.ok()) ::_exit(2);
    while (true) ::pause();
  }
  its.reset();
  Host host(settingsFor(0));
  auto link = connectVerbs(host.device, std::move(mine), inMs(10'000));
  REQUIRE_MESSAGE(link.ok(), link.error().message);
  Recorder recorder;
  link.value()->setHandler(&recorder);
  for (int i = 0; i < 100; ++i) REQUIRE(link.value()->send(bytesOfText("on the way")));
  link.value()->flush();
  const uint64_t begin = monotonicNs();
  ::kill(child, SIGKILL);
  REQUIRE(pollUntil(
      *link.value(), [&] { return recorder.downs > 0; }, 5000));
  ::waitpid(child, nullptr, 0);
  MESSAGE("down ", (recorder.downNs - begin) / 1000, " µs after SIGKILL: ", recorder.down.message);
  CHECK(recorder.down.is("WALSHIP_ERR_LINK_CLOSED"));
  CHECK(recorder.downNs - begin < 200 * kMs);
}

TEST_CASE("verbs lab: what the peer had sent before it left still arrives") {
  if (absent()) return;
  Pair pair;
  for (int i = 0; i < 200; ++i) REQUIRE(pair.up->send(bytesOfText("last words")));
  pair.up->flush();
  // Complete means that the other device has them.
  while (pair.up->poll() || pair.up->counters().doorbells == 0) {
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  pair.up.reset();
  REQUIRE(pollUntil(
      *pair.downstream, [&] { return pair.atDown.downs > 0; }, 5000));
  CHECK(pair.atDown.events.size() == 200);
  CHECK(pair.atDown.down.is("WALSHIP_ERR_LINK_CLOSED"));
}

TEST_CASE("verbs lab: a fabric that carries nothing fails the set-up within its deadline") {
  if (absent()) return;
  const Wire wire;
  Host a(settingsFor(0));
  Host b(settingsFor(1));
  command("walship-lab cut 2");
  for (const uint64_t timeoutMs : {uint64_t{300}, uint64_t{5000}}) {
    const uint64_t begin = monotonicNs();
    auto [first, second] = connectBoth(a, b, timeoutMs);
    const uint64_t took = (monotonicNs() - begin) / kMs;
    REQUIRE_FALSE(first.ok());
    REQUIRE_FALSE(second.ok());
    MESSAGE("failed after ", took, " ms: ", first.error().message, " / ", second.error().message);
    CHECK(took < timeoutMs + 500);
    for (const Error& error : {first.error(), second.error()}) {
      CHECK_MESSAGE((error.is("WALSHIP_ERR_RDMA_UNAVAILABLE") || error.is("WALSHIP_ERR_TIMEOUT") ||
                     error.is("WALSHIP_ERR_LINK_CLOSED")),
                    error.code);
    }
  }
  command("walship-lab heal 2");
  auto [first, second] = connectBoth(a, b);
  CHECK_MESSAGE(first.ok(), first.error().message);
  CHECK(second.ok());
}

TEST_CASE("verbs lab: an end that cannot tells the other") {
  if (absent()) return;
  Host a(settingsFor(0));
  auto bare = Device::openAll(settingsFor(1));
  REQUIRE(bare.ok());
  auto [left, right] = controlPair();
  const uint64_t begin = monotonicNs();
  Connected first = makeError("WALSHIP_ERR_INTERNAL", "");
  std::thread other(
      [&, fd = std::move(left)]() mutable { first = connectVerbs(a.device, std::move(fd), inMs(10'000)); });
  const Connected second = connectVerbs(bare.value().front(), std::move(right), inMs(10'000));
  other.join();
  CHECK(monotonicNs() - begin < 2000 * kMs);
  REQUIRE_FALSE(first.ok());
  REQUIRE_FALSE(second.ok());
  CHECK(first.error().is("WALSHIP_ERR_RDMA_UNAVAILABLE"));
  CHECK(first.error().message.find("the peer gave up on RDMA: no arena is registered") != std::string::npos);
}

TEST_CASE("verbs lab: garbage on the control connection is refused") {
  if (absent()) return;
  Host a(settingsFor(0), 1u << 20);
  const auto answer = [&](Bytes bytes, bool close) {
    auto [mine, its] = controlPair();
    REQUIRE(writeFully(its.get(), bytes, inMs(1000)).ok());
    if (close) ::shutdown(its.get(), SHUT_WR);
    const auto result = connectVerbs(a.device, std::move(mine), inMs(300));
    REQUIRE_FALSE(result.ok());
    return std::string(result.error().code);
  };
  std::mt19937_64 random(11);
  for (int round = 0; round < 50; ++round) {
    Buffer noise(16 + random() % 200);
    for (auto& byte : noise) byte = static_cast<std::byte>(random());
    CHECK(answer(noise, round % 2 == 0) == "WALSHIP_ERR_LINK_PROTOCOL");
  }
  CHECK(answer({}, true) == "WALSHIP_ERR_LINK_CLOSED");
  CHECK(answer({}, false) == "WALSHIP_ERR_TIMEOUT");
  const Buffer ready = makeRecord(RecordKind::kReady, {});
  CHECK(answer(ready, false) == "WALSHIP_ERR_LINK_PROTOCOL");
  Endpoint endpoint;
  endpoint.gid = *gidOfAddress(nodes()[1].address);
  endpoint.queuePair = 0x7777;
  endpoint.pathMtuBytes = 1024;
  endpoint.receiveDepth = 64;
  const Buffer whole = makeRecord(RecordKind::kEndpoint, encodeEndpoint(endpoint));
  for (size_t length = 1; length < whole.size(); ++length) {
    CHECK(answer(Bytes(whole).first(length), true) == "WALSHIP_ERR_LINK_CLOSED");
  }
  CHECK(answer(whole, true) == "WALSHIP_ERR_LINK_CLOSED");
  Buffer later = whole;
  later[4] = std::byte{2};
  CHECK(answer(later, true) == "WALSHIP_ERR_LINK_PROTOCOL");
}

TEST_CASE("verbs lab: anything said on the control connection of a live link ends it") {
  if (absent()) return;
  Host a(settingsFor(0));
  Host b(settingsFor(1));
  auto [left, right] = controlPair();
  const Fd spy(::dup(left.get()));
  Connected first = makeError("WALSHIP_ERR_INTERNAL", "");
  std::thread other(
      [&, fd = std::move(left)]() mutable { first = connectVerbs(a.device, std::move(fd), inMs(10'000)); });
  const Connected second = connectVerbs(b.device, std::move(right), inMs(10'000));
  other.join();
  REQUIRE(first.ok());
  REQUIRE(second.ok());
  Recorder recorder;
  second.value()->setHandler(&recorder);
  REQUIRE(::send(spy.get(), "?", 1, 0) == 1);
  REQUIRE(pollUntil(
      *second.value(), [&] { return recorder.downs > 0; }, 1000));
  CHECK(recorder.down.is("WALSHIP_ERR_LINK_PROTOCOL"));
}

// Leases, holds, promises and changes of the upstream: what binds a node in its role.
#include <sys/socket.h>

#include "fabric/socket.h"
#include "test/engine/engines.h"

using namespace walship;
using namespace walship::engines;

namespace {

constexpr uint64_t kMs = 1'000'000;

uint64_t inMs(uint64_t milliseconds) { return monotonicNs() + milliseconds * kMs; }

bool append(Engine& node, const char* code = nullptr) {
  const std::vector<std::byte> bytes(100);
  auto appended = node.append(bytes);
  return code == nullptr ? appended.ok() : !appended && appended.error().is(code);
}

uint64_t committed(Engine& node) { return node.counters()[kCommittedLsn].load(); }

}  // namespace

TEST_CASE("lease clock: what a host slept through counts, also between a renewal and its call") {
  LeaseClock clock;
  CHECK(clock.deadline(5000, 0) == 5000);
  // Suspended for 700 since: whether before or after the renewal is not known.
  CHECK(clock.deadline(6000, 700) == 6000);
  CHECK(clock.deadline(7000, 700) == 7700);
  CHECK(clock.deadline(0, 700) >= kLeaseOver);
  const uint64_t now = LeaseClock().deadline(monotonicNs() + 1000 * kMs);
  CHECK(now > bootNs());
  CHECK(now <= bootNs() + 1000 * kMs);
}

TEST_CASE("lease: behind it nothing is committed, by any rule, until it is renewed") {
  for (const CommitLevel level : {CommitLevel::async, CommitLevel::received, CommitLevel::applied}) {
    const TemporaryDirectory directory;
    auto settings = settingsOf(directory, "a");
    settings.commitRule = {level, CommitChoice::any, 1, {}};
    auto primary = open(settings);
    auto standby = open(settingsOf(directory, "b"));
    REQUIRE(primary->promote(0, primary->leaseDeadline(inMs(10'000))));
    follow(*standby, *primary);
    REQUIRE(append(*primary));
    CHECK(primary->pump().waitCommitted(100, 10'000));
    static_cast<void>(primary->pump().drainEvents());
    primary->setLease(inMs(1));
    CHECK(within(5000, [&] { return saw(*primary, "lease-expired", "WALSHIP_ERR_LEASE"); }));
    REQUIRE(append(*primary));
    CHECK(caughtUp(*primary, 200));
    CHECK(caughtUp(*standby, 200));
    CHECK_FALSE(primary->pump().waitCommitted(200, 100));
    CHECK(committed(*primary) == 100);
    primary->setLease(inMs(60'000));
    CHECK(primary->pump().waitCommitted(200, 10'000));
    CHECK(saw(*primary, "lease-renewed"));
    CHECK_FALSE(saw(*primary, "lease-expired"));
  }
}

TEST_CASE("lease: that of an earlier reign is none of the next one's") {
  const TemporaryDirectory directory;
  auto primary = open(settingsOf(directory, "a"));
  REQUIRE(primary->promote(0, primary->leaseDeadline(inMs(60'000))));
  CHECK(reign(*primary) == 2);
  REQUIRE(append(*primary));
  CHECK_FALSE(primary->pump().waitCommitted(100, 100));
  CHECK(saw(*primary, "lease-expired"));
  primary->setLease(std::nullopt);
  CHECK(primary->pump().waitCommitted(100, 5000));
}

TEST_CASE("hold: the primary takes no appends until it is released or demoted") {
  const TemporaryDirectory directory;
  auto primary = open(settingsOf(directory, "a"));
  CHECK(primary->hold(true).error().is("WALSHIP_ERR_NOT_PRIMARY"));
  REQUIRE(primary->promote(0));
  REQUIRE(append(*primary));
  auto held = primary->hold(true);
  REQUIRE(held);
  CHECK(held.value() == 100);
  CHECK(append(*primary, "WALSHIP_ERR_BACKPRESSURE"));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));  // several ticks
  CHECK(primary->counters()[kStarved].load() == 1);
  CHECK_FALSE(saw(*primary, "writable"));
  CHECK(committed(*primary) == 100);  // what it had taken went on
  REQUIRE(primary->hold(false));
  CHECK(within(5000, [&] { return saw(*primary, "writable"); }));
  CHECK(primary->counters()[kStarved].load() == 0);
  REQUIRE(append(*primary));
  REQUIRE(primary->hold(true));
  REQUIRE(primary->promise(9));
  CHECK(append(*primary, "WALSHIP_ERR_NOT_PRIMARY"));
  CHECK(primary->counters()[kStarved].load() == 0);
  REQUIRE(primary->promote(9));
  CHECK(append(*primary));
}

TEST_CASE("promise: the same again gives the same answer, and a new one steps a primary down") {
  const TemporaryDirectory directory;
  auto node = open(settingsOf(directory, "a"));
  REQUIRE(node->promote(0));
  REQUIRE(append(*node));
  for (int time = 0; time < 2; ++time) {
    auto promised = node->promise(4);
    REQUIRE(promised);
    CHECK(promised.value().lsn == 100);
    CHECK(promised.value().logEpoch == 1);
    CHECK(node->counters()[kPromisedEpoch].load() == 4);
    CHECK(node->counters()[kIsPrimary].load() == 0);
  }
  CHECK(node->promise(3).error().is("WALSHIP_ERR_EPOCH"));
  CHECK(node->promote(3).error().is("WALSHIP_ERR_EPOCH"));
  CHECK(node->promote(4).value() == 4);
}

TEST_CASE("promise: the current epoch's own link stays") {
  const TemporaryDirectory directory;
  auto primary = open(settingsOf(directory, "a"));
  auto standby = open(settingsOf(directory, "b"));
  REQUIRE(primary->promote(6));
  follow(*standby, *primary);
  CHECK(caughtUp(*standby, appendSome(*primary, 1, 1000)));
  REQUIRE(standby->promise(6));
  CHECK(caughtUp(*standby, appendSome(*primary, 2, 1000)));
  CHECK_FALSE(saw(*standby, "upstream-down"));
}

TEST_CASE("follow: another upstream at once, whatever the back-off, and however the try under way hangs") {
  const TemporaryDirectory directory;
  auto silent = listenTcp({"127.0.0.1", 0});  // takes connections, and says nothing
  REQUIRE(silent);
  auto primary = open(settingsOf(directory, "a"));
  auto middle = open(settingsOf(directory, "b"));
  auto settings = settingsOf(directory, "c");
  settings.reconnectMsMin = settings.reconnectMsMax = 20'000;
  settings.setupTimeoutMs = 20'000;
  auto standby = open(settings);
  REQUIRE(primary->promote(0));
  follow(*middle, *primary);
  uint64_t end = 0;
  const auto arrives = [&](Engine& upstream) {
    const uint64_t start = monotonicNs();
    follow(*standby, upstream);
    end = appendSome(*primary, 1, 1000);
    CHECK(caughtUp(*standby, end));
    CHECK(monotonicNs() - start < 5000 * kMs);
  };
  arrives(*middle);
  arrives(*primary);
  static_cast<void>(standby->pump().drainEvents());
  arrives(*primary);  // the same again
  CHECK_FALSE(saw(*standby, "upstream-down"));
  REQUIRE(standby->follow(ConnectTarget{{"127.0.0.1", localPort(silent.value().get())}, "", "", 0, ""}));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  arrives(*middle);
  // Nobody listens there: the next try would come in twenty seconds.
  ConnectTarget nobody;
  nobody.address = {"127.0.0.1", 1};
  REQUIRE(standby->follow(nobody));
  CHECK(within(5000, [&] { return saw(*standby, "upstream-unreachable"); }));
  arrives(*primary);
  // A promise and the end do not wait for a try that hangs.
  REQUIRE(standby->follow(ConnectTarget{{"127.0.0.1", localPort(silent.value().get())}, "", "", 0, ""}));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const uint64_t start = monotonicNs();
  REQUIRE(standby->promise(9));
  standby.reset();
  CHECK(monotonicNs() - start < 5000 * kMs);
}

TEST_CASE("follow: what was committed is cut only with an operator's consent, and set aside") {
  const TemporaryDirectory directory;
  auto settings = settingsOf(directory, "a");
  settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {}};
  {
    auto primary = open(settings);
    auto second = open(settingsOf(directory, "b"));
    auto other = open(settingsOf(directory, "c"));
    REQUIRE(primary->promote(0));
    follow(*second, *primary);
    const uint64_t kept = appendSome(*primary, 1, 1u << 20);
    REQUIRE(primary->pump().waitCommitted(kept, 10'000));
    REQUIRE(other->promote(9));
    const uint64_t end = appendSome(*other, 2, 200'000);  // shorter than what was committed
    follow(*primary, *other);
    CHECK(within(5000, [&] { return saw(*primary, "upstream-down", "WALSHIP_ERR_DIVERGED_COMMITTED"); }));
    CHECK(primary->store().receivedLsn() == kept);
    REQUIRE(primary->follow(ConnectTarget{{"127.0.0.1", other->listenPort()}, "", "", 0, ""}, true));
    CHECK(within(10'000, [&] { return primary->store().receivedLsn() == end && logEpoch(*primary) == 9; }));
    CHECK(committed(*primary) <= end);
    CHECK(primary->counters()[kPromisedEpoch].load() == 9);
  }
  CHECK(std::any_of(fs::directory_iterator(directory.path / "a"), fs::directory_iterator(), [](const auto& entry) {
    return entry.path().filename().string().starts_with("diverged-");
  }));
}

TEST_CASE("upstream: when it was last heard is known at any time") {
  const TemporaryDirectory directory;
  auto primary = open(settingsOf(directory, "a"));
  auto standby = open(settingsOf(directory, "b"));
  const auto& heard = standby->counters()[kUpstreamHeardNs];
  CHECK(heard.load() == 0);
  REQUIRE(primary->promote(0));
  follow(*standby, *primary);
  REQUIRE(within(5000, [&] { return heard.load() != 0; }));
  const uint64_t first = heard.load();
  CHECK(within(5000, [&] { return heard.load() > first; }));  // heartbeats do
  primary.reset();
  const uint64_t last = heard.load();
  CHECK(last <= monotonicNs());
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  CHECK(heard.load() == last);
}

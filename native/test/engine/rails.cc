// Whole engines with two rails between them: links are parked, taken up, given up for others, bundled.
#include <sys/socket.h>

#include "fabric/tcp/tcp_link.h"
#include "replication/parked.h"
#include "test/engine/engines.h"

using namespace walship;
using namespace walship::engines;

namespace {

// `a` listens on two loopback addresses; `b` knows both.
struct TwoRails {
  TemporaryDirectory directory;
  std::unique_ptr<Engine> primary;
  std::unique_ptr<Engine> standby;
  std::vector<RailTarget> rails;

  TwoRails() {
    auto settings = settingsOf(directory, "a");
    settings.listen = {{"127.0.0.1", 0}, {"127.0.0.2", 0}};
    settings.railEnds = {{"127.0.0.1", 0, "", 0, 0, -1}, {"127.0.0.2", 0, "", 0, 0, -1}};
    settings.commitRule = {CommitLevel::received, CommitChoice::any, 1, {keyOf("b")}};
    primary = open(settings);
    standby = open(settingsOf(directory, "b"));
    REQUIRE(primary->promote(0));
    follow(*standby, *primary);
    REQUIRE(within(5000, [&] { return standby->pump().snapshot().railEnds.size() == 2; }));
    for (const RailEnd& end : standby->pump().snapshot().railEnds) {
      const std::string name = "tcp@" + end.host + ":" + std::to_string(end.port);
      rails.push_back({name, ConnectTarget{{end.host, end.port}, "a", "", kTransportTcp, ""}});
    }
  }

  bool spares(size_t count) {
    return within(5000, [&] {
      const auto snapshot = standby->pump().snapshot();
      return std::count_if(snapshot.rails.begin(), snapshot.rails.end(), [](const RailStatus& rail) { return rail.spare; }) ==
             static_cast<std::ptrdiff_t>(count);
    });
  }
  std::vector<std::string> carrying() {
    std::vector<std::string> names;
    for (const RailStatus& rail : standby->pump().snapshot().rails) {
      if (rail.carries) names.push_back(rail.name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  void steer(std::vector<std::string> carry) { standby->steer({rails[0].name, rails[1].name}, std::move(carry), "as the test has it"); }
};

}  // namespace

TEST_CASE("engine: a link moves between rails, alone and striped, under load; nothing is lost, doubled or reordered") {
  TwoRails two;
  CHECK_FALSE(two.standby->setRails(two.rails, "somebody else").value());
  REQUIRE(two.standby->setRails(two.rails, "a").value());
  REQUIRE(two.spares(2));
  std::atomic<bool> done{false};
  std::atomic<uint64_t> end{0};
  std::thread writer([&] {
    for (uint32_t i = 0; !done; ++i) end = appendSome(*two.primary, i, 200'000);
  });
  const std::vector<std::vector<std::string>> choices{
      {two.rails[1].name}, {two.rails[0].name}, {two.rails[0].name, two.rails[1].name}};
  for (size_t move = 0; move < 30; ++move) {
    CAPTURE(move);
    const auto& choice = choices[move % choices.size()];
    two.steer(choice);
    auto sorted = choice;
    std::sort(sorted.begin(), sorted.end());
    REQUIRE(within(10'000, [&] { return two.carrying() == sorted; }));
  }
  done = true;
  writer.join();
  CHECK(two.primary->pump().waitCommitted(end, 10'000));
  CHECK(caughtUp(*two.standby, end));
  two.standby.reset();
  two.primary.reset();
  checkIdentical(two.directory, "a", "b");
}

TEST_CASE("engine: the link goes on over a spare one at once when its own is gone, by the order given") {
  TwoRails two;
  REQUIRE(two.standby->setRails(two.rails, "a").value());
  REQUIRE(two.spares(2));
  two.steer({two.rails[1].name});
  REQUIRE(within(5000, [&] { return two.carrying() == std::vector{two.rails[1].name}; }));
  REQUIRE(two.spares(2));
  two.steer({});
  // The upstream ends the session, as it does for a cut.
  REQUIRE(two.primary->pump().call([&]() -> Result<uint64_t> {
    two.primary->pump().dropDownstreams("the test ends it");
    return uint64_t{0};
  }));
  REQUIRE(within(5000, [&] { return two.carrying() == std::vector{two.rails[0].name}; }));
  const auto snapshot = two.standby->pump().snapshot();
  const auto failed = std::find_if(snapshot.rails.begin(), snapshot.rails.end(),
                                   [&](const RailStatus& rail) { return rail.name == two.rails[1].name; });
  REQUIRE(failed != snapshot.rails.end());
  CHECK(failed->failures == 1);
  const uint64_t end = appendSome(*two.primary, 1, 300'000);
  CHECK(two.primary->pump().waitCommitted(end, 10'000));
}

TEST_CASE("engine: whom a node does not follow any more it has no links to") {
  TwoRails two;
  REQUIRE(two.standby->setRails(two.rails, "a").value());
  REQUIRE(two.spares(2));
  REQUIRE(two.standby->follow(std::nullopt));
  CHECK(two.standby->pump().snapshot().rails.empty());
  CHECK(two.standby->pump().snapshot().railsNode.empty());
  CHECK_FALSE(two.standby->setRails(two.rails, "a").value());
  follow(*two.standby, *two.primary);
  REQUIRE(within(5000, [&] { return two.standby->pump().snapshot().railsNode == "a"; }));
  REQUIRE(two.standby->setRails(two.rails, "a").value());
  REQUIRE(two.spares(2));
  // A promise is a fence for every link, used or not.
  REQUIRE(two.standby->promise(5));
  CHECK(two.carrying().empty());
  REQUIRE(two.standby->promote(5));
  CHECK(two.standby->pump().snapshot().rails.empty());
}

TEST_CASE("parked: a link is silent only while its peer goes on to answer over another one") {
  constexpr uint64_t ms = 1'000'000;
  constexpr uint64_t patience = 100 * ms;
  {
    // Nobody answers any more: the node, and not the link.
    Silence silence;
    for (uint64_t now = 1000; now < 2000; now += 10) CHECK_FALSE(silence.judge(1000 * ms, 990 * ms, now * ms, patience));
  }
  {
    // It stood still for 400 ms, and its answer over the other link is here first.
    Silence silence;
    CHECK_FALSE(silence.judge(1000 * ms, 990 * ms, 1390 * ms, patience));
    CHECK_FALSE(silence.judge(1000 * ms, 1400 * ms, 1400 * ms, patience));
    CHECK_FALSE(silence.judge(1410 * ms, 1400 * ms, 1410 * ms, patience));
    CHECK_FALSE(silence.judge(1410 * ms, 1500 * ms, 1600 * ms, patience));
    // A silence of twice that length, during which it answers, is one.
    uint64_t found = 0;
    for (uint64_t now = 1420; now < 3000 && found == 0; now += 10) {
      if (silence.judge(1410 * ms, now * ms, now * ms, patience)) found = now;
    }
    CHECK(found > 1410 + 2 * 350);
    CHECK(found < 1410 + 2 * 420);
  }
  {
    // A link that was never silent for long is given up soon.
    Silence silence;
    for (uint64_t now = 1000; now < 2000; now += 10) CHECK_FALSE(silence.judge(now / 20 * 20 * ms, now / 50 * 50 * ms, now * ms, patience));
    uint64_t found = 0;
    for (uint64_t now = 2000; now < 3000 && found == 0; now += 10) {
      if (silence.judge(1980 * ms, now / 50 * 50 * ms, now * ms, patience)) found = now;
    }
    CHECK(found <= 1980 + 120);
  }
}

TEST_CASE("parked: a link is probed, claimed once, and ended by what does not belong there") {
  const auto pair = [](auto&& body) {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    ParkedLink asks(std::make_unique<TcpLink>(Fd(fds[0])), "a", "tcp@a", ParkedLink::Side::probes, {1, 1000});
    ParkedLink answers(std::make_unique<TcpLink>(Fd(fds[1])), "b", "", ParkedLink::Side::answers, {1, 1000});
    const auto rounds = [&](int count) {
      for (int i = 0; i < count; ++i) {
        asks.step(monotonicNs(), 0);
        asks.link().flush();
        answers.poll();
        answers.link().flush();
        asks.poll();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    };
    body(asks, answers, rounds);
  };
  pair([](ParkedLink& asks, ParkedLink& answers, auto&& rounds) {
    CHECK(asks.roundTripNs() == 0);
    rounds(20);
    CHECK(asks.roundTripNs() > 0);
    answers.say(encode(Rails{{{"10.0.0.1", 1, "", 0, 0, 0}}}));
    answers.say(encode(Lost{7}));
    rounds(2);
    CHECK(asks.takeRails()->ends.front().host == "10.0.0.1");
    CHECK_FALSE(asks.takeRails());
    CHECK(asks.takeLost()->session == 7);
    asks.say(encode(Bind{7, 0, 2}));
    asks.say(encode(Offer{}));
    rounds(2);
    CHECK(answers.claimed());
    CHECK(answers.claims().size() >= 2);  // and what this side goes on to say
    CHECK_FALSE(answers.ended());
  });
  pair([](ParkedLink& asks, ParkedLink& answers, auto&& rounds) {
    asks.say(encode(Heartbeat{}));
    rounds(2);
    REQUIRE(answers.ended());
    CHECK(answers.ended()->is("WALSHIP_ERR_LINK_PROTOCOL"));
  });
  pair([](ParkedLink& asks, ParkedLink& answers, auto&& rounds) {
    for (int i = 0; i < 10; ++i) asks.say(encode(Offer{}));
    rounds(2);
    REQUIRE(answers.ended());
    CHECK(answers.ended()->is("WALSHIP_ERR_LINK_PROTOCOL"));
  });
  pair([](ParkedLink& asks, ParkedLink& answers, auto&& rounds) {
    answers.say(encode(Probe{1, true, 0}));
    rounds(2);
    REQUIRE(asks.ended());
  });
}

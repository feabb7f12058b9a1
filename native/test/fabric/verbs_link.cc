// Links between two rxe devices of the lab, both ends in one process: what they carry, in which order, how
// they wait.
#include <sys/epoll.h>

#include <algorithm>
#include <atomic>

#include "fabric/verbs/credits.h"
#include "test/fabric/verbs_lab.h"

using namespace walship;
using namespace walship::lab;

TEST_CASE("verbs lab: capabilities list the devices") {
  if (absent()) return;
  const auto found = verbsCapabilities();
  REQUIRE(found.state == VerbsState::kReady);
  for (const Node& node : nodes()) {
    const auto device = std::find_if(found.devices.begin(), found.devices.end(),
                                     [&](const VerbsDevice& one) { return one.name == node.device; });
    REQUIRE(device != found.devices.end());
    REQUIRE(device->ports.size() == 1);
    const VerbsPort& port = device->ports[0];
    CHECK(port.state == "ACTIVE");
    CHECK(port.linkLayer == "Ethernet");
    CHECK(port.activeMtuBytes == 4096);
    CHECK_FALSE(port.speed.empty());
    const auto gid = std::find_if(port.gids.begin(), port.gids.end(),
                                  [&](const VerbsGid& one) { return one.address == node.address; });
    REQUIRE(gid != port.gids.end());
    CHECK(gid->type == "RoCE v2");
    CHECK_FALSE(gid->netdev.empty());
    VerbsSettings byAddress;
    byAddress.addresses = {node.address};
    const auto choice = chooseRails(found, byAddress);
    REQUIRE(choice.ok());
    CHECK(choice.value().front().device == node.device);
  }
}

TEST_CASE("verbs lab: ranges and messages arrive whole and in order") {
  if (absent()) return;
  for (const uint32_t depth : {512u, 16u}) {
    Pair pair(depth);
    const uint32_t pageBytes = 256u << 10;
    const uint32_t pages = 40;
    fillRandom(pair.a->arena.bytes(), depth);
    CHECK(pair.up->rail().transport == "verbs");
    CHECK(pair.up->rail().local == nodes()[0].address);
    CHECK(pair.up->rail().remote == nodes()[1].address);
    CHECK(pair.up->rail().mtuBytes == 4096);
    CHECK(pair.up->rail().device.starts_with(nodes()[0].device + "/1/"));

    // Grants stand in the downstream's arena in the opposite order, so that an address is never right by
    // chance.
    std::vector<RemotePage> remote;
    const auto target = [&](uint32_t grant) { return pair.b->arena.at(size_t{pages - grant} * pageBytes); };
    for (uint32_t grant = 1; grant <= pages; ++grant) {
      remote.push_back(pair.downstream->expect(grant, target(grant), 64, pageBytes));
    }
    std::mt19937_64 random(depth);
    std::vector<Event> expected;
    std::vector<uint32_t> ends;
    uint64_t shippedBytes = 0;
    for (uint32_t grant = 1; grant <= pages; ++grant) {
      const std::byte* source = pair.a->arena.at(size_t{grant - 1} * pageBytes);
      uint32_t offset = 64;
      const uint32_t end =
          random() % 3 == 0 ? pageBytes : static_cast<uint32_t>(64 + 1 + random() % (pageBytes - 65));
      while (offset < end) {
        const uint32_t most = random() % 4 == 0 ? 65536 : 700;
        const uint32_t length = std::min(end - offset, static_cast<uint32_t>(1 + random() % most));
        const auto shipped = [&] {
          return pair.up->ship({source + offset, length}, grant, remote[grant - 1], offset);
        };
        if (!shipped()) REQUIRE(pair.pump(shipped));
        expected.push_back({Event::kLanded, grant, length, {}});
        offset += length;
        shippedBytes += length;
        if (random() % 5 == 0) {
          const std::string text(random() % (random() % 4 == 0 ? 4097 : 200),
                                 static_cast<char>('a' + random() % 26));
          const auto sent = [&] { return pair.up->send(bytesOfText(text)); };
          if (!sent()) REQUIRE(pair.pump(sent));
          expected.push_back({Event::kMessage, 0, static_cast<uint32_t>(text.size()), text});
        }
        if (random() % 20 == 0) pair.up->flush();
      }
      ends.push_back(end);
    }
    const bool arrived = pair.pump([&] { return pair.atDown.events.size() >= expected.size(); });
    REQUIRE_MESSAGE(arrived, pair.atDown.events.size(), " of ", expected.size(), "; shipped ",
                    pair.atUp.shipped, " of ", pair.up->counters().shippedRanges, "; ",
                    pair.atUp.down.message, pair.atDown.down.message);
    CHECK(pair.atDown.events == expected);
    CHECK(pair.atUp.downs == 0);
    CHECK(pair.atDown.downs == 0);
    for (uint32_t grant = 1; grant <= pages; ++grant) {
      const std::byte* source = pair.a->arena.at(size_t{grant - 1} * pageBytes);
      CHECK(std::equal(source + 64, source + ends[grant - 1], target(grant) + 64));
      const MutableBytes rest{target(grant) + ends[grant - 1], pageBytes - ends[grant - 1]};
      CHECK(std::all_of(rest.begin(), rest.end(), [](std::byte byte) { return byte == std::byte{0}; }));
    }
    // At idle nothing stays pinned.
    const uint64_t ranges = pair.up->counters().shippedRanges;
    REQUIRE(pair.pump([&] { return pair.atUp.shipped == ranges; }));
    CHECK(pair.up->counters().shippedBytes == shippedBytes);
    CHECK(pair.downstream->counters().landedBytes == shippedBytes);
    CHECK(pair.downstream->counters().messagesReceived == pair.up->counters().messagesSent);
    CHECK(pair.up->counters().wireBytesSent > shippedBytes);
    CHECK(pair.up->counters().doorbells < expected.size());
  }
}

TEST_CASE("verbs lab: messages of every size, both ways") {
  if (absent()) return;
  Pair pair;
  std::vector<std::string> texts;
  for (const size_t size : {0u, 1u, 7u, 8u, 100u, 247u, 248u, 249u, 256u, 257u, 1024u, 4095u, 4096u}) {
    texts.emplace_back(size, static_cast<char>('A' + texts.size()));
  }
  for (const auto& text : texts) {
    REQUIRE(pair.up->send(bytesOfText(text)));
    REQUIRE(pair.downstream->send(bytesOfText(text)));
  }
  REQUIRE(pair.pump(
      [&] { return pair.atDown.events.size() == texts.size() && pair.atUp.events.size() == texts.size(); }));
  for (size_t i = 0; i < texts.size(); ++i) {
    CHECK(pair.atDown.events[i].text == texts[i]);
    CHECK(pair.atUp.events[i].text == texts[i]);
  }
}

TEST_CASE("verbs lab: a full queue is refused, and goes on when the receiver does") {
  if (absent()) return;
  for (const uint32_t depth : {16u, 64u}) {
    Pair pair(depth);
    const std::string text(4096, 'x');
    // Both ends send until they are refused, and neither takes anything from the other before both have been.
    // Only completions of their own could make room.
    uint64_t sentUp = 0;
    uint64_t sentDown = 0;
    const auto fill = [&](Link& link, uint64_t& sent) {
      while (link.send(bytesOfText(text))) ++sent;
      link.flush();
    };
    fill(*pair.up, sentUp);
    fill(*pair.downstream, sentDown);
    CHECK(sentUp == depth - Credits::kReserve);
    CHECK(sentDown == depth - Credits::kReserve);
    const uint64_t rounds = 50 * depth;
    REQUIRE(pair.pump([&] {
      if (sentUp < rounds) fill(*pair.up, sentUp);
      if (sentDown < rounds) fill(*pair.downstream, sentDown);
      return pair.atDown.events.size() >= rounds && pair.atUp.events.size() >= rounds;
    }));
    // One way only: credits come back in messages of their own.
    const uint64_t before = pair.atDown.events.size();
    const uint64_t doorbells = pair.downstream->counters().doorbells;
    const uint64_t messages = pair.downstream->counters().messagesSent;
    REQUIRE(pair.pump([&] {
      fill(*pair.up, sentUp);
      return pair.atDown.events.size() >= before + rounds;
    }));
    CHECK(pair.downstream->counters().messagesSent == messages);
    const uint64_t creditMessages = pair.downstream->counters().doorbells - doorbells;
    CHECK(creditMessages >= rounds / depth);
    CHECK(creditMessages <= (rounds + 2 * depth) / (depth / 4) + 1);
    CHECK(pair.atUp.downs == 0);
    CHECK(pair.atDown.downs == 0);
  }
}

TEST_CASE("verbs lab: no wake-up is lost when both ends sleep on events") {
  if (absent()) return;
  Pair pair(64);
  const uint32_t pageBytes = 1u << 20;
  const RemotePage remote = pair.downstream->expect(1, pair.b->arena.at(0), 0, pageBytes);
  constexpr int kRounds = 1500;

  // Sleeps as the pump does; false after two seconds without an event.
  const auto sleepOn = [](Link& link, int poller) {
    if (!link.arm()) return true;
    epoll_event events[8];
    return ::epoll_wait(poller, events, 8, 2000) > 0;
  };
  const auto watch = [](Link& link) {
    Fd poller(::epoll_create1(EPOLL_CLOEXEC));
    for (const int fd : link.fds()) {
      epoll_event event{};
      event.events = EPOLLIN | EPOLLOUT | EPOLLET;
      REQUIRE(::epoll_ctl(poller.get(), EPOLL_CTL_ADD, fd, &event) == 0);
    }
    return poller;
  };
  const Fd upPoller = watch(*pair.up);
  const Fd downPoller = watch(*pair.downstream);

  std::atomic<int> landed{0};
  std::atomic<bool> stuck{false};
  std::thread receiver([&] {
    std::mt19937_64 random(3);
    while (landed < kRounds && !stuck) {
      if (!pair.downstream->poll() && !sleepOn(*pair.downstream, downPoller.get())) stuck = true;
      const int now = static_cast<int>(pair.atDown.events.size());
      while (landed < now) {
        if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
        if (!pair.downstream->send(bytesOfText("ack"))) break;
        ++landed;
      }
      pair.downstream->flush();
    }
  });
  uint32_t offset = 0;
  std::mt19937_64 random(4);
  for (int round = 0; round < kRounds && !stuck; ++round) {
    const uint32_t length = static_cast<uint32_t>(1 + random() % 600);
    if (!pair.up->ship({pair.a->arena.at(offset), length}, 1, remote, offset)) stuck = true;
    offset += length;
    pair.up->flush();
    while (pair.atUp.events.size() < static_cast<size_t>(round) + 1 && !stuck) {
      if (!pair.up->poll() && !sleepOn(*pair.up, upPoller.get())) stuck = true;
    }
    if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
  }
  receiver.join();
  CHECK_FALSE(stuck);
  CHECK(pair.atUp.events.size() == kRounds);
  CHECK(pair.atUp.shipped > kRounds - 64);
}

TEST_CASE("verbs lab: a link that waits for room is woken by its own completions") {
  if (absent()) return;
  Pair pair(16);
  const Fd poller(::epoll_create1(EPOLL_CLOEXEC));
  for (const int fd : pair.up->fds()) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLET;
    REQUIRE(::epoll_ctl(poller.get(), EPOLL_CTL_ADD, fd, &event) == 0);
  }
  // The send queue and the credits end together; the receiver stays silent, so only completions can be news
  // here.
  while (pair.up->send(bytesOfText("x"))) {
  }
  pair.up->flush();
  int news = 0;
  for (const uint64_t deadline = inMs(3000); news < 1 && monotonicNs() < deadline;) {
    epoll_event events[8];
    if (pair.up->arm()) ::epoll_wait(poller.get(), events, 8, 500);
    if (pair.up->poll()) ++news;
  }
  CHECK(news >= 1);
}

TEST_CASE("verbs lab: a write outside of a grant closes the link at both ends") {
  if (absent()) return;
  const uint32_t pageBytes = 64u << 10;
  struct Case {
    const char* name;
    uint32_t grant;
    uint32_t length;
    bool forgotten;
  };
  const Case cases[] = {{"past the page's end", 1, pageBytes - 63, false},
                        {"never granted", 3, 100, false},
                        {"far away", 40000, 100, false},
                        {"forgotten", 1, 100, true}};
  for (const Case& one : cases) {
    CAPTURE(one.name);
    Pair pair(16);
    const RemotePage remote = pair.downstream->expect(1, pair.b->arena.at(0), 64, pageBytes);
    pair.downstream->expect(2, pair.b->arena.at(pageBytes), 0, pageBytes);
    if (one.forgotten) pair.downstream->forget(1);
    REQUIRE(pair.up->ship({pair.a->arena.at(0), one.length}, one.grant, remote, 64));
    REQUIRE(pair.pump([&] { return pair.atDown.downs > 0; }));
    CHECK(pair.atDown.down.is("WALSHIP_ERR_LINK_PROTOCOL"));
    CHECK(pair.atDown.events.empty());
    pair.downstream.reset();
    REQUIRE(pair.pump([&] { return pair.atUp.downs > 0; }));
    CHECK(pair.atUp.down.is("WALSHIP_ERR_LINK_CLOSED"));
    CHECK_FALSE(pair.up->send(bytesOfText("late")));
    CHECK_FALSE(pair.up->poll());
    CHECK(pair.up->arm());
    CHECK(pair.atUp.downs == 1);
  }
}

TEST_CASE("verbs lab: a page before the current one takes nothing more, and a forgotten one is skipped") {
  if (absent()) return;
  const uint32_t pageBytes = 64u << 10;
  Pair pair(16);
  std::vector<RemotePage> remote;
  for (uint32_t grant = 1; grant <= 4; ++grant) {
    remote.push_back(pair.downstream->expect(grant, pair.b->arena.at(grant * pageBytes), 0, pageBytes));
  }
  pair.downstream->forget(2);
  REQUIRE(pair.up->ship({pair.a->arena.at(0), 100}, 1, remote[0], 0));
  REQUIRE(pair.up->ship({pair.a->arena.at(0), 100}, 3, remote[2], 0));
  REQUIRE(pair.pump([&] { return pair.atDown.events.size() == 2; }));
  CHECK(pair.atDown.events[1].grantId == 3);
  pair.downstream->forget(1);  // done with already
  REQUIRE(pair.up->ship({pair.a->arena.at(0), 100}, 4, remote[3], 0));
  REQUIRE(pair.up->ship({pair.a->arena.at(0), 100}, 1, remote[0], 100));
  REQUIRE(pair.pump([&] { return pair.atDown.downs > 0; }));
  CHECK(pair.atDown.events.size() == 3);
  CHECK(pair.atDown.down.is("WALSHIP_ERR_LINK_PROTOCOL"));
}

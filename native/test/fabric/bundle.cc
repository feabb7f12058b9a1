// Several links as one: order, whatever the lanes' speeds, and the end of one of them.
#include "fabric/bundle.h"

#include <doctest/doctest.h>
#include <sys/socket.h>

#include <algorithm>
#include <random>

#include "fabric/tcp/tcp_link.h"

using namespace walship;

namespace {

constexpr uint32_t kPageBytes = 4096;

// What has come, in the order in which it came: ranges as (grant, length), joined where they are one run; messages.
struct Recorder final : LinkHandler {
  struct Event {
    uint32_t grantId = 0;
    uint32_t length = 0;
    Buffer message;
    bool operator==(const Event&) const = default;
  };
  std::vector<Event> events;
  uint64_t shipped = 0;
  int downs = 0;

  void onLanded(uint32_t grantId, uint32_t length) override {
    if (!events.empty() && events.back().grantId == grantId) {
      events.back().length += length;
    } else {
      events.push_back({grantId, length, {}});
    }
  }
  void onMessage(Bytes message) override { events.push_back({0, 0, Buffer(message.begin(), message.end())}); }
  void onShipped(uint64_t count) override {
    CHECK(count > shipped);
    shipped = count;
  }
  void onDown(const Error&) override { ++downs; }
};

// A lane that is polled only now and then: what it brings comes late.
class SlowLane final : public Link {
 public:
  SlowLane(Fd fd, std::minstd_rand& random) : link_(std::move(fd)), random_(random) {}
  Rail rail() const override { return link_.rail(); }
  const LinkCounters& counters() const override { return link_.counters(); }
  RemotePage expect(uint32_t grantId, std::byte* page, uint32_t offset, uint32_t pageBytes) override {
    return link_.expect(grantId, page, offset, pageBytes);
  }
  void forget(uint32_t grantId) override { link_.forget(grantId); }
  bool ship(Bytes range, uint32_t grantId, const RemotePage& page, uint32_t offset) override {
    return link_.ship(range, grantId, page, offset);
  }
  bool send(Bytes message) override { return link_.send(message); }
  void flush() override { link_.flush(); }
  bool poll() override {
    if (random_() % 4 != 0) return false;
    link_.setHandler(handler_);
    return link_.poll();
  }
  bool arm() override { return link_.arm(); }
  bool polls() const override { return true; }
  std::vector<int> fds() const override { return link_.fds(); }

 private:
  TcpLink link_;
  std::minstd_rand& random_;
};

struct Pair {
  std::minstd_rand random;
  std::vector<std::byte> source;
  std::vector<std::byte> target;
  std::unique_ptr<Bundle> up;
  std::unique_ptr<Bundle> down;
  Recorder atUp;
  Recorder atDown;
  std::vector<int> upFds;

  Pair(size_t lanes, uint32_t seed, uint32_t pages) : random(seed), source(size_t{pages} * kPageBytes), target(source.size()) {
    for (auto& byte : source) byte = static_cast<std::byte>(random());
    std::vector<std::unique_ptr<Link>> ups;
    std::vector<std::unique_ptr<Link>> downs;
    for (size_t i = 0; i < lanes; ++i) {
      int fds[2];
      REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
      upFds.push_back(fds[0]);
      ups.push_back(std::make_unique<SlowLane>(Fd(fds[0]), random));
      downs.push_back(std::make_unique<SlowLane>(Fd(fds[1]), random));
    }
    up = std::make_unique<Bundle>(std::move(ups), std::vector<std::deque<Buffer>>(lanes));
    down = std::make_unique<Bundle>(std::move(downs), std::vector<std::deque<Buffer>>(lanes));
    up->setHandler(&atUp);
    down->setHandler(&atDown);
  }

  template <class Condition>
  bool pump(Condition&& condition, int rounds = 100'000) {
    while (--rounds > 0) {
      if (condition()) return true;  // once: it may do something
      up->flush();
      down->flush();
      up->poll();
      down->poll();
    }
    return false;
  }
};

}  // namespace

TEST_CASE("bundle: ranges and messages arrive whole, once, and in the order of the calls") {
  for (uint32_t seed = 1; seed <= 24; ++seed) {
    CAPTURE(seed);
    constexpr uint32_t kPages = 60;
    const size_t lanes = 2 + seed % (kLanesMax - 1);
    Pair pair(lanes, seed, kPages);
    std::vector<Recorder::Event> expected;
    std::vector<uint32_t> ends;
    uint32_t number = 0;
    uint64_t ships = 0;
    for (uint32_t grant = 1; grant <= kPages; ++grant) {
      std::byte* page = pair.target.data() + size_t{grant - 1} * kPageBytes;
      const RemotePage remote = pair.down->expect(grant, page, 0, kPageBytes);
      const uint32_t end = 1 + static_cast<uint32_t>(pair.random() % kPageBytes);
      ends.push_back(end);
      for (uint32_t offset = 0; offset < end;) {
        const uint32_t length = std::min(end - offset, 1 + static_cast<uint32_t>(pair.random() % 1500));
        const Bytes range(pair.source.data() + size_t{grant - 1} * kPageBytes + offset, length);
        REQUIRE(pair.pump([&] { return pair.up->ship(range, grant, remote, offset); }));
        ++ships;
        if (!expected.empty() && expected.back().grantId == grant) {
          expected.back().length += length;
        } else {
          expected.push_back({grant, length, {}});
        }
        offset += length;
        if (pair.random() % 5 == 0) {
          Buffer message;
          putValue(message, ++number);
          REQUIRE(pair.pump([&] { return pair.up->send(message); }));
          expected.push_back({0, 0, message});
        }
      }
    }
    CHECK(pair.pump([&] { return pair.atDown.events == expected; }, 3000));
    REQUIRE(pair.pump([&] { return pair.atUp.shipped == ships; }));
    for (uint32_t grant = 1; grant <= kPages; ++grant) {
      const size_t from = size_t{grant - 1} * kPageBytes;
      CHECK(std::equal(pair.source.begin() + static_cast<ptrdiff_t>(from),
                       pair.source.begin() + static_cast<ptrdiff_t>(from + ends[grant - 1]),
                       pair.target.begin() + static_cast<ptrdiff_t>(from)));
    }
    CHECK(pair.atDown.downs == 0);
    CHECK(pair.up->counters().shippedRanges == ships);
    // The other way nothing is shipped: messages stay in order over the first lane.
    for (uint32_t i = 0; i < 20; ++i) {
      Buffer message;
      putValue(message, i);
      REQUIRE(pair.pump([&] { return pair.down->send(message); }));
    }
    REQUIRE(pair.pump([&] { return pair.atUp.events.size() == 20; }));
    for (uint32_t i = 0; i < 20; ++i) CHECK(loadAt<uint32_t>(pair.atUp.events[i].message, 0) == i);
  }
}

TEST_CASE("bundle: what came over a lane before it was one has its place") {
  int fds[2][2];
  for (auto& each : fds) REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, each) == 0);
  std::vector<std::unique_ptr<Link>> lanes;
  for (auto& each : fds) lanes.push_back(std::make_unique<TcpLink>(Fd(each[0])));
  const Fd others[2] = {Fd(fds[0][1]), Fd(fds[1][1])};
  std::vector<std::deque<Buffer>> heard(2);
  heard[0].push_back({std::byte{1}});
  heard[1].push_back({std::byte{2}});
  Bundle bundle(std::move(lanes), std::move(heard));
  Recorder recorder;
  bundle.setHandler(&recorder);
  CHECK_FALSE(bundle.arm());
  CHECK(bundle.poll());
  // The second lane's turn has not come.
  REQUIRE(recorder.events.size() == 1);
  CHECK(recorder.events[0].message == Buffer{std::byte{1}});
  CHECK(bundle.arm());
}

TEST_CASE("bundle: with one lane all of it is down, once") {
  Pair pair(3, 7, 4);
  ::shutdown(pair.upFds[1], SHUT_RDWR);
  REQUIRE(pair.pump([&] { return pair.atUp.downs > 0 && pair.atDown.downs > 0; }));
  for (int i = 0; i < 100; ++i) {
    CHECK_FALSE(pair.up->poll());
    CHECK_FALSE(pair.down->poll());
  }
  CHECK(pair.atUp.downs == 1);
  CHECK(pair.atDown.downs == 1);
}

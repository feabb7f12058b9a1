// Links between the devices of the Soft-RoCE lab, for tests and benchmarks.
#pragma once

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "fabric/socket.h"
#include "fabric/verbs/connect.h"

namespace walship::lab {

constexpr uint64_t kMs = 1'000'000;

inline uint64_t inMs(uint64_t ms) { return monotonicNs() + ms * kMs; }

struct Node {
  std::string device;
  std::string address;
};

// "rxe1:10.77.0.1,rxe2:10.77.0.2" as the lab says it.
inline std::vector<Node> nodes() {
  std::vector<Node> found;
  const char* text = std::getenv("WALSHIP_LAB_DEVICES");
  std::string rest = text != nullptr ? text : "";
  while (!rest.empty()) {
    const std::string one = rest.substr(0, rest.find(','));
    rest = rest.size() > one.size() ? rest.substr(one.size() + 1) : "";
    found.push_back({one.substr(0, one.find(':')), one.substr(one.find(':') + 1)});
  }
  return found;
}

inline bool absent() {
  if (nodes().size() >= 2) return false;
  static bool told = false;
  if (!std::exchange(told, true)) {
    MESSAGE("SKIPPED, like all that follow: it needs two RDMA devices. Run it in the lab: ",
            "scripts/softroce run --nodes 2 -- build/native/walship-tests -tc='verbs lab*'");
  }
  return true;
}

// Runs one of the lab's own commands.
inline void command(const std::string& text) { REQUIRE_MESSAGE(std::system(text.c_str()) == 0, text); }

class Region {
 public:
  explicit Region(size_t bytes) {
    void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(address != MAP_FAILED);
    ::madvise(address, bytes, MADV_DONTFORK);
    bytes_ = {static_cast<std::byte*>(address), bytes};
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { ::munmap(bytes_.data(), bytes_.size()); }
  MutableBytes bytes() const { return bytes_; }
  std::byte* at(size_t offset) const { return bytes_.data() + offset; }

 private:
  MutableBytes bytes_;
};

inline VerbsSettings settingsFor(size_t node) {
  VerbsSettings settings;
  settings.device = nodes().at(node).device;
  settings.addresses = {nodes().at(node).address};
  return settings;
}

// A device with an arena.
struct Host {
  explicit Host(const VerbsSettings& settings, size_t arenaBytes = 16u << 20) : arena(arenaBytes) {
    auto opened = Device::openAll(settings);
    REQUIRE_MESSAGE(opened.ok(), opened.error().message);
    device = opened.value().front();
    const auto registered = device->registerArena(arena.bytes());
    REQUIRE_MESSAGE(registered.ok(), registered.error().message);
  }
  Region arena;
  std::shared_ptr<Device> device;
};

// A control connection, over TCP as in real life.
inline std::pair<Fd, Fd> controlPair() {
  auto listener = listenTcp({"127.0.0.1", 0});
  REQUIRE(listener.ok());
  auto one = connectTcp({"127.0.0.1", localPort(listener.value().get())}, "", inMs(2000));
  REQUIRE(one.ok());
  Fd other;
  for (const uint64_t deadline = inMs(2000); !other.valid() && monotonicNs() < deadline;) {
    other = Fd(::accept4(listener.value().get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  }
  REQUIRE(other.valid());
  return {one.take(), std::move(other)};
}

using Connected = Result<std::unique_ptr<Link>>;

inline std::pair<Connected, Connected> connectBoth(Host& a, Host& b, uint64_t timeoutMs = 10'000) {
  auto [left, right] = controlPair();
  const uint64_t deadline = inMs(timeoutMs);
  Connected first = makeError("WALSHIP_ERR_INTERNAL", "");
  std::thread other(
      [&, fd = std::move(left)]() mutable { first = connectVerbs(a.device, std::move(fd), deadline); });
  Connected second = connectVerbs(b.device, std::move(right), deadline);
  other.join();
  return {std::move(first), std::move(second)};
}

struct Event {
  enum Kind { kLanded, kMessage } kind;
  uint32_t grantId;
  uint32_t length;
  std::string text;
  bool operator==(const Event&) const = default;
};

class Recorder final : public LinkHandler {
 public:
  void onLanded(uint32_t grantId, uint32_t length) override {
    CHECK(downs == 0);
    events.push_back({Event::kLanded, grantId, length, {}});
    if (landedHook) landedHook(grantId, length);
  }
  void onMessage(Bytes message) override {
    CHECK(downs == 0);
    events.push_back({Event::kMessage,
                      0,
                      static_cast<uint32_t>(message.size()),
                      {reinterpret_cast<const char*>(message.data()), message.size()}});
    if (messageHook) messageHook(message);
  }
  void onShipped(uint64_t count) override {
    CHECK(downs == 0);
    CHECK(count > shipped);
    shipped = count;
  }
  void onDown(const Error& error) override {
    ++downs;
    down = error;
    downNs = monotonicNs();
  }

  std::vector<Event> events;
  std::function<void(uint32_t, uint32_t)> landedHook;
  std::function<void(Bytes)> messageHook;
  uint64_t shipped = 0;
  int downs = 0;
  Error down;
  uint64_t downNs = 0;
};

// Two hosts, a link between them, each end with a recorder; both polled by the test's own thread.
struct Pair {
  explicit Pair(uint32_t depth = 512, int ackTimeoutExponent = 14) {
    VerbsSettings left = settingsFor(0);
    VerbsSettings right = settingsFor(1);
    left.queueDepth = right.queueDepth = depth;
    left.ackTimeoutExponent = right.ackTimeoutExponent = ackTimeoutExponent;
    a = std::make_unique<Host>(left);
    b = std::make_unique<Host>(right);
    auto [first, second] = connectBoth(*a, *b);
    REQUIRE_MESSAGE(first.ok(), first.error().message);
    REQUIRE_MESSAGE(second.ok(), second.error().message);
    up = first.take();
    downstream = second.take();
    up->setHandler(&atUp);
    downstream->setHandler(&atDown);
  }

  // Flushes and polls both ends until `done`, at most `timeoutMs`.
  bool pump(const std::function<bool()>& done, uint64_t timeoutMs = 60'000) {
    const uint64_t deadline = inMs(timeoutMs);
    while (!done()) {
      for (Link* link : {up.get(), downstream.get()}) {
        if (link == nullptr) continue;
        link->flush();
        link->poll();
      }
      if (monotonicNs() > deadline) return false;
    }
    return true;
  }

  std::unique_ptr<Host> a;  // upstream
  std::unique_ptr<Host> b;
  Recorder atUp;
  Recorder atDown;
  std::unique_ptr<Link> up;
  std::unique_ptr<Link> downstream;
};

inline Bytes bytesOfText(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline void fillRandom(MutableBytes bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t value = random();
    std::memcpy(bytes.data() + i, &value, 8);
  }
}

}  // namespace walship::lab

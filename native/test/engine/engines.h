// Whole engines in one process, over loopback, for tests.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/checksum.h"
#include "base/clock.h"
#include "engine/engine.h"

namespace walship::engines {

namespace fs = std::filesystem;

struct TemporaryDirectory {
  fs::path path;
  TemporaryDirectory() {
    static std::atomic<int> number{0};
    const fs::path base = fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path();
    path = base / ("walship-engine-" + std::to_string(::getpid()) + "-" + std::to_string(number++));
    fs::create_directories(path);
  }
  ~TemporaryDirectory() { fs::remove_all(path); }
};

inline EngineSettings settingsOf(const TemporaryDirectory& directory, const std::string& node) {
  EngineSettings settings;
  settings.log.dir = (directory.path / node).string();
  settings.log.geometry = {kPageBytesMin, 16, keyOf("cluster")};
  settings.log.zeroFill = false;
  settings.arenaSlots = 48;
  settings.nodeId = node;
  settings.cluster = "cluster";
  settings.secret = "a secret of the cluster";
  settings.listen = {{"127.0.0.1", 0}};
  settings.session.grantPages = 8;
  settings.session.linkTimeoutMs = 5000;  // sanitizers are slow
  settings.reconnectMsMin = 10;
  return settings;
}

inline std::unique_ptr<Engine> open(EngineSettings settings) {
  auto engine = Engine::open(std::move(settings), [] {});
  if (!engine) FAIL(engine.error().message);
  return engine.take();
}

inline void follow(Engine& standby, const Engine& upstream) {
  REQUIRE(standby.follow(ConnectTarget{{"127.0.0.1", upstream.listenPort()}, "", "", 0, ""}));
}

// `a` is the primary, `b` follows it, `c` follows `b`.
inline std::array<std::unique_ptr<Engine>, 3> chain(const TemporaryDirectory& directory) {
  std::array<std::unique_ptr<Engine>, 3> nodes{open(settingsOf(directory, "a")), open(settingsOf(directory, "b")),
                                               open(settingsOf(directory, "c"))};
  REQUIRE(nodes[0]->promote(0));
  follow(*nodes[1], *nodes[0]);
  follow(*nodes[2], *nodes[1]);
  return nodes;
}

template <class Condition>
bool within(uint32_t milliseconds, Condition&& condition) {
  const uint64_t deadline = monotonicNs() + uint64_t{milliseconds} * 1'000'000;
  while (!condition()) {
    if (monotonicNs() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

inline bool caughtUp(Engine& node, uint64_t lsn) {
  return within(30'000, [&] { return node.store().flushedLsn() >= lsn; });
}

inline std::vector<char> contentOf(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Segment files of both, by name and byte.
inline void checkIdentical(const TemporaryDirectory& directory, const std::string& one, const std::string& other) {
  size_t compared = 0;
  for (const auto& entry : fs::directory_iterator(directory.path / one)) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".wal") || name.starts_with("diverged")) continue;
    const auto here = contentOf(entry.path());
    const auto there = contentOf(directory.path / other / name);
    const auto differs = std::mismatch(here.begin(), here.end(), there.begin(), there.end()).first - here.begin();
    INFO(name << " of " << one << " and " << other << " differ from offset " << differs << " on");
    CHECK(here == there);
    ++compared;
  }
  CHECK(compared > 0);
}

inline uint64_t appendSome(Engine& primary, uint32_t seed, size_t bytes) {
  std::mt19937 random(seed);
  std::vector<std::byte> buffer(40'000);
  for (auto& each : buffer) each = static_cast<std::byte>(random());
  uint64_t end = 0;
  for (size_t done = 0; done < bytes;) {
    const size_t length = 1 + random() % buffer.size();
    auto appended = primary.append(Bytes(buffer).first(length));
    if (!appended) {
      REQUIRE(appended.error().is("WALSHIP_ERR_BACKPRESSURE"));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    end = appended.value();
    done += length;
  }
  return end;
}

// Whether such an event is among those not looked at yet; takes them all.
inline bool saw(Engine& node, const std::string& type, const std::string& code = "") {
  const auto events = node.pump().drainEvents();
  return std::any_of(events.begin(), events.end(), [&](const EngineEvent& event) {
    return event.type == type && (code.empty() || event.code == code);
  });
}

// Becomes primary anew, in the next epoch, with the links of those below it up.
inline uint64_t reign(Engine& node) {
  REQUIRE(node.follow(std::nullopt));
  auto epoch = node.promote(0);
  REQUIRE(epoch);
  return epoch.value();
}

inline uint64_t logEpoch(Engine& node) { return node.counters()[kLogEpoch].load(); }

}  // namespace walship::engines

// Races of a deposed primary's writes against a promise: after the promise is answered nothing of the old epoch lands,
// not even in memory.
//
// WALSHIP_FENCE_RACES says how many; 200 by default.
#include <cstdlib>

#include "test/engine/engines.h"
#include "test/fabric/verbs_lab.h"

using namespace walship;
using namespace walship::engines;

namespace {

constexpr uint64_t kAheadBytes = 512u << 10;

uint32_t racesWanted() {
  const char* text = std::getenv("WALSHIP_FENCE_RACES");
  return text != nullptr ? static_cast<uint32_t>(std::strtoul(text, nullptr, 10)) : 200;
}

void waitUs(uint64_t microseconds) {
  const uint64_t until = monotonicNs() + microseconds * 1000;
  while (monotonicNs() < until) std::this_thread::yield();
}

// Appends as fast as it is let, whenever `primary` is one; but before a race only so far ahead that the standby is soon back.
class Writer {
 public:
  Writer(Engine& primary, Engine& standby) : thread_([this, &primary, &standby] { run(primary, standby); }) {}
  ~Writer() {
    stopping_ = true;
    thread_.join();
  }
  void race(bool on) { racing_ = on; }

 private:
  void run(Engine& primary, Engine& standby) {
    std::mt19937 random(11);
    std::vector<std::byte> bytes(16'000);
    for (auto& each : bytes) each = static_cast<std::byte>(random());
    while (!stopping_) {
      const bool ahead = !racing_ && primary.counters()[kEndLsn].load() > standby.store().receivedLsn() + kAheadBytes;
      if (ahead || !primary.append(Bytes(bytes).first(1 + random() % bytes.size()))) waitUs(20);
    }
  }

  std::atomic<bool> stopping_{false};
  std::atomic<bool> racing_{false};
  std::thread thread_;
};

EngineSettings racer(const TemporaryDirectory& directory, const std::string& node) {
  EngineSettings settings = settingsOf(directory, node);
  settings.log.retainBytes = 8u << 20;
  settings.reconnectMsMin = settings.reconnectMsMax = 1;  // it tries again while the promise stands
  return settings;
}

// All of the memory that any upstream was ever granted.
uint64_t imageOf(Engine& node) { return checksum(node.arena().memory()); }

void race(EngineSettings of, EngineSettings against, uint32_t races) {
  of.commitRule = {CommitLevel::received, CommitChoice::any, 1, {}};
  auto primary = open(of);
  auto standby = open(against);
  const auto& committed = primary->counters()[kCommittedLsn];
  std::mt19937 random(std::random_device{}());
  uint64_t onTheWay = 0;
  uint64_t epoch = 0;
  const uint64_t start = monotonicNs();
  {
    Writer writer(*primary, *standby);
    for (uint32_t number = 0; number < races; ++number) {
      INFO("race " << number);
      auto begun = primary->promote(epoch);
      REQUIRE(begun);
      epoch = begun.value();
      const uint64_t before = standby->store().receivedLsn();
      follow(*standby, *primary);
      // Committed in this epoch, so it flows both ways; then at some instant of full speed.
      if (!within(20'000, [&] { return logEpoch(*standby) == epoch && committed.load() > before; })) {
        for (Engine* node : {primary.get(), standby.get()}) {
          for (const EngineEvent& event : node->pump().drainEvents()) MESSAGE(event.type << ": " << event.message);
        }
        FAIL("the standby did not come back");
      }
      writer.race(true);
      waitUs(random() % 1500);

      auto promised = standby->promise(epoch + 1);
      REQUIRE(promised);
      const uint64_t image = imageOf(*standby);
      CHECK(standby->store().receivedLsn() == promised.value().lsn);
      CHECK(promised.value().logEpoch == epoch);
      onTheWay += primary->counters()[kEndLsn].load() > promised.value().lsn ? 1 : 0;
      waitUs(200 + random() % 800);
      writer.race(false);
      CHECK(primary->counters()[kIsPrimary].load() == 1);  // it does not know yet
      CHECK(standby->store().receivedLsn() == promised.value().lsn);
      CHECK(imageOf(*standby) == image);
      CHECK(committed.load() <= promised.value().lsn);

      REQUIRE(primary->follow(std::nullopt));
      ++epoch;
    }
    REQUIRE(primary->promote(epoch));
  }
  // The log went on through all of it.
  follow(*standby, *primary);
  const uint64_t end = primary->pump().appender().endLsn();
  CHECK(caughtUp(*standby, end));
  // The old primary did have what it wanted to write.
  CHECK(onTheWay * 4 > races);
  const double seconds = static_cast<double>(monotonicNs() - start) / 1e9;
  MESSAGE(races << " races in " << seconds << " s, " << onTheWay << " with bytes of the old primary on their way, "
                << end << " bytes shipped");
}

}  // namespace

TEST_CASE("fencing: nothing of a deposed primary lands behind a promise, over TCP") {
  const TemporaryDirectory directory;
  race(racer(directory, "a"), racer(directory, "b"), racesWanted());
}

TEST_CASE("verbs lab: fencing: nothing of a deposed primary lands behind a promise") {
  if (lab::absent()) return;
  const TemporaryDirectory directory;
  const auto over = [&](const char* node, size_t device) {
    EngineSettings settings = racer(directory, node);
    settings.transports = kTransportVerbs;
    settings.verbs = lab::settingsFor(device);
    return settings;
  };
  race(over("a", 0), over("b", 1), racesWanted());
}

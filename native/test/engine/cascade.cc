// Whole engines in one process, over loopback: what the sanitizers see of the data plane's threads.
#include "engine/driver.h"
#include "test/engine/engines.h"

using namespace walship;
using namespace walship::engines;

TEST_CASE("engine: a chain of three holds the same bytes, whatever the arena can hold") {
  const TemporaryDirectory directory;
  uint64_t end = 0;
  {
    auto [primary, middle, leaf] = chain(directory);
    end = appendSome(*primary, 1, 12u << 20);  // four arenas
    CHECK(caughtUp(*middle, end));
    CHECK(caughtUp(*leaf, end));
    CHECK(leaf->read(0, UINT64_MAX, true).value()->lsn == 0);
  }
  checkIdentical(directory, "a", "b");
  checkIdentical(directory, "a", "c");
}

TEST_CASE("engine: a standby joins late, leaves, and comes back while the primary writes") {
  const TemporaryDirectory directory;
  uint64_t end = 0;
  {
    auto primary = open(settingsOf(directory, "a"));
    REQUIRE(primary->promote(0));
    appendSome(*primary, 1, 6u << 20);
    for (int round = 0; round < 3; ++round) {
      auto standby = open(settingsOf(directory, "b"));
      follow(*standby, *primary);
      end = appendSome(*primary, 10u + static_cast<uint32_t>(round), 5u << 20);
      if (round == 2) CHECK(caughtUp(*standby, end));
    }
  }
  checkIdentical(directory, "a", "b");
}

TEST_CASE("engine: the commit rule counts cascaded nodes, and commits wait without them") {
  const TemporaryDirectory directory;
  auto settings = settingsOf(directory, "a");
  settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {keyOf("c")}};
  settings.ruleMs = 50;
  auto primary = open(settings);
  auto middle = open(settingsOf(directory, "b"));
  REQUIRE(primary->promote(0));
  follow(*middle, *primary);
  const uint64_t end = appendSome(*primary, 1, 100'000);
  CHECK(caughtUp(*middle, end));
  CHECK_FALSE(primary->pump().waitCommitted(end, 200));
  CHECK(primary->pump().snapshot().ruleFailing);
  auto leaf = open(settingsOf(directory, "c"));
  follow(*leaf, *middle);
  CHECK(primary->pump().waitCommitted(end, 10'000));
  CHECK(within(5000, [&] { return !primary->pump().snapshot().ruleFailing; }));
  // A standby learns what is committed.
  CHECK(within(5000, [&] { return leaf->counters()[kCommittedLsn].load() >= end; }));
}

TEST_CASE("engine: threads that ship what they append themselves, beside others and the pump, lose and double nothing") {
  const TemporaryDirectory directory;
  uint64_t end = 0;
  {
    auto settings = settingsOf(directory, "a");
    settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {}};
    auto primary = open(settings);
    auto standby = open(settingsOf(directory, "b"));
    REQUIRE(primary->promote(0));
    follow(*standby, *primary);
    std::atomic<uint64_t> bytesTaken{0};
    std::atomic<uint64_t> late{0};
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        const std::vector<std::byte> bytes(100u + 50u * static_cast<uint32_t>(thread), std::byte(thread));
        for (int i = 0; i < 300; ++i) {
          const bool byCaller = thread != 0;
          auto appended = primary->append(bytes, false, byCaller ? Ship::byCaller : Ship::byPump);
          if (!appended) continue;
          bytesTaken += bytes.size();
          if (byCaller) primary->pump().takeTurn();
          if (i % 3 == 0 && !primary->pump().waitCommitted(appended.value(), 10'000)) ++late;
          if (i % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // so that the pump falls asleep
        }
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK(late == 0);
    end = primary->pump().appender().endLsn();
    CHECK(end == bytesTaken);
    CHECK(primary->pump().waitCommitted(end, 10'000));
    CHECK(caughtUp(*standby, end));
  }
  checkIdentical(directory, "a", "b");
}

TEST_CASE("engine: a primary whose own disk does not count commits what its standby has, and its disk follows") {
  const TemporaryDirectory directory;
  {
    auto settings = settingsOf(directory, "a");
    settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {}, false};
    auto primary = open(settings);
    auto standby = open(settingsOf(directory, "b"));
    REQUIRE(primary->promote(0));
    follow(*standby, *primary);
    uint64_t end = 0;
    bool ahead = false;
    for (int i = 0; i < 200; ++i) {
      end = primary->append(std::vector<std::byte>(200, std::byte(i))).value();
      REQUIRE(primary->pump().waitCommitted(end, 10'000));
      ahead |= primary->store().flushedLsn() < end;
    }
    CHECK(ahead);
    CHECK(caughtUp(*primary, end));
    end = appendSome(*primary, 5, 5u << 20);
    CHECK(primary->pump().waitCommitted(end, 30'000));
    CHECK(caughtUp(*primary, end));
    CHECK(caughtUp(*standby, end));
    // A rule that counts it again.
    REQUIRE(primary->pump().call([&]() -> Result<uint64_t> {
      primary->pump().setCommitRule({CommitLevel::flushed, CommitChoice::any, 1, {}});
      return 0;
    }));
    for (int i = 0; i < 20; ++i) {
      end = primary->append(std::vector<std::byte>(200, std::byte(i))).value();
      REQUIRE(primary->pump().waitCommitted(end, 10'000));
      CHECK(primary->store().flushedLsn() >= end);
    }
  }
  checkIdentical(directory, "a", "b");
}

TEST_CASE("engine: what readers anywhere need is known at the top, as long as they are there") {
  const TemporaryDirectory directory;
  auto [primary, middle, leaf] = chain(directory);
  Pump& top = primary->pump();
  const auto shown = [&top](const Horizon& horizon) {
    return within(5000, [&] { return top.shownHorizon() == horizon; });
  };
  leaf->pump().setHorizon({700, 0});
  CHECK(shown({700, 0}));
  middle->pump().setHorizon({900, 60});
  CHECK(shown({700, 60}));
  primary->pump().setHorizon({500, 0});
  CHECK(shown({500, 60}));
  primary->pump().setHorizon({});
  REQUIRE(leaf->follow(std::nullopt));
  CHECK(shown({900, 60}));
  follow(*leaf, *middle);
  CHECK(shown({700, 60}));
  middle->pump().setHorizon({});
  leaf.reset();
  CHECK(shown({}));
}

namespace {

// `old` and `leaf` go on alone in epoch 1 while `next` takes over in epoch 2, and then follows it.
void divergeAndReturn(Engine& old, Engine& next, Engine& leaf) {
  REQUIRE(old.promote(0));
  follow(next, old);
  CHECK(caughtUp(next, appendSome(old, 1, 1u << 20)));
  REQUIRE(next.follow(std::nullopt));
  const uint64_t lonely = appendSome(old, 2, 3u << 20);  // nobody else has it
  CHECK(caughtUp(old, lonely));
  CHECK(caughtUp(leaf, lonely));
  CHECK(next.promote(0).value() == 2);
  const uint64_t end = appendSome(next, 3, 2u << 20);
  follow(old, next);
  CHECK(within(10'000, [&] { return old.store().receivedLsn() == end; }));
  CHECK(old.store().epoch() == 2);
}

}  // namespace

TEST_CASE("engine: after a promotion the old primary's own tail is cut and set aside") {
  const TemporaryDirectory directory;
  {
    auto old = open(settingsOf(directory, "a"));
    auto next = open(settingsOf(directory, "b"));
    auto leaf = open(settingsOf(directory, "c"));  // below the one that is cut: is cut as well
    follow(*leaf, *old);
    divergeAndReturn(*old, *next, *leaf);
    CHECK(within(10'000, [&] { return leaf->store().flushedLsn() == next->store().flushedLsn(); }));
  }
  checkIdentical(directory, "b", "a");
  checkIdentical(directory, "b", "c");
  for (const char* node : {"a", "c"}) {
    const bool aside = std::any_of(fs::directory_iterator(directory.path / node), fs::directory_iterator(), [](const auto& entry) {
      return entry.path().filename().string().starts_with("diverged-");
    });
    CHECK(aside);
  }
}

TEST_CASE("engine: what was committed synchronously is never cut") {
  const TemporaryDirectory directory;
  auto settings = settingsOf(directory, "a");
  settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {}};
  auto primary = open(settings);
  auto second = open(settingsOf(directory, "b"));
  auto stranger = open(settingsOf(directory, "c"));
  REQUIRE(primary->promote(0));
  follow(*second, *primary);
  const uint64_t committed = appendSome(*primary, 1, 1u << 20);
  REQUIRE(primary->pump().waitCommitted(committed, 10'000));
  // A node that has nothing of it is made primary by mistake, and the others are sent there.
  REQUIRE(stranger->promote(9));
  appendSome(*stranger, 2, 2u << 20);
  follow(*primary, *stranger);
  CHECK(within(10'000, [&] {
    const auto events = primary->pump().drainEvents();
    return std::any_of(events.begin(), events.end(), [](const EngineEvent& event) {
      return event.code == "WALSHIP_ERR_DIVERGED_COMMITTED";
    });
  }));
  CHECK(primary->store().receivedLsn() == committed);
}

TEST_CASE("engine: a standby that ends where the trimmed log begins goes on from there") {
  const TemporaryDirectory directory;
  auto settings = settingsOf(directory, "a");
  settings.log.retainBytes = 1;
  const Geometry geometry = settings.log.geometry;
  auto primary = open(settings);
  auto standby = open(settingsOf(directory, "b"));
  REQUIRE(primary->promote(0));
  follow(*standby, *primary);
  // A segment, to the last byte of its last page.
  const std::vector<std::byte> page(geometry.payloadRoomMax(), std::byte{5});
  uint64_t end = 0;
  for (uint32_t count = 0; count < geometry.segmentPages; ++count) {
    auto appended = primary->append(page);
    REQUIRE(appended);
    end = appended.value();
    REQUIRE(caughtUp(*primary, end));
    REQUIRE(caughtUp(*standby, end));
  }
  REQUIRE(standby->store().received().page == geometry.segmentPages - 1);
  // What it said last is where the log is kept from.
  REQUIRE(within(5000, [&] { return primary->pump().readers()["b"] == end; }));
  REQUIRE(standby->close());
  standby.reset();
  const uint64_t last = appendSome(*primary, 1, 4 * geometry.segmentBytes());
  REQUIRE(within(30'000, [&] { return primary->log().firstLsn() == end; }));
  standby = open(settingsOf(directory, "b"));
  follow(*standby, *primary);
  CHECK(caughtUp(*standby, last));
}

TEST_CASE("engine: an append is committed as a whole, and kept by a new primary as a whole or not at all") {
  for (const size_t parts : {size_t{1}, size_t{30}}) {  // several pages of them
    const TemporaryDirectory directory;
    auto settings = settingsOf(directory, "a");
    settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {}};
    auto first = open(settings);
    auto second = open(settingsOf(directory, "b"));
    REQUIRE(first->promote(0));
    follow(*second, *first);
    const std::vector<std::byte> bytes(3001, std::byte{7});
    const auto append = [&](Engine& primary, bool continues) {
      auto appended = primary.append(bytes, continues);
      REQUIRE(appended);
      return appended.value();
    };
    const uint64_t whole = append(*first, false);
    CHECK(first->pump().waitCommitted(whole, 10'000));
    const auto begin = [&] {
      uint64_t end = 0;
      for (size_t part = 0; part < parts; ++part) end = append(*first, true);
      REQUIRE(caughtUp(*first, end));
      REQUIRE(caughtUp(*second, end));
      return end;
    };
    const uint64_t half = begin();
    CHECK_FALSE(first->pump().waitCommitted(half, 100));
    CHECK(first->pump().waitCommitted(whole, 100));
    const uint64_t kept = append(*first, false);
    CHECK(first->pump().waitCommitted(kept, 10'000));
    begin();

    REQUIRE(second->follow(std::nullopt));
    REQUIRE(second->promote(0));
    CHECK(second->store().receivedLsn() == kept);
    CHECK(saw(*second, "log-cut"));
    follow(*first, *second);
    const uint64_t end = appendSome(*second, 3, 100'000);
    REQUIRE(caughtUp(*first, end));
    CHECK(saw(*first, "log-cut"));
    REQUIRE(first->close());
    REQUIRE(second->close());
    checkIdentical(directory, "a", "b");
  }
}

TEST_CASE("engine: a promise keeps older epochs out, also after a restart") {
  const TemporaryDirectory directory;
  auto primary = open(settingsOf(directory, "a"));
  REQUIRE(primary->promote(0));
  {
    auto standby = open(settingsOf(directory, "b"));
    follow(*standby, *primary);
    CHECK(caughtUp(*standby, appendSome(*primary, 1, 200'000)));
    REQUIRE(standby->promise(5));
  }
  auto standby = open(settingsOf(directory, "b"));
  const uint64_t before = standby->store().receivedLsn();
  follow(*standby, *primary);
  appendSome(*primary, 2, 200'000);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(standby->store().receivedLsn() == before);
  CHECK(standby->promise(4).error().is("WALSHIP_ERR_EPOCH"));
}

TEST_CASE("engine: driven from a native thread, every append is committed") {
  const TemporaryDirectory directory;
  auto settings = settingsOf(directory, "a");
  settings.commitRule = {CommitLevel::received, CommitChoice::any, 1, {}};
  auto primary = open(settings);
  auto standby = open(settingsOf(directory, "b"));
  REQUIRE(primary->promote(0));
  follow(*standby, *primary);
  DriveSettings open{128, 0, 1, 200'000, 10, false};
  auto burst = drive(*primary, open);
  REQUIRE(burst);
  CHECK(burst.value()->appends >= 1000);
  CHECK(standby->store().receivedLsn() >= burst.value()->endLsn);
  DriveSettings closed{512, 1, 1, 2'000, 10, false};
  auto calm = drive(*primary, closed);
  REQUIRE(calm);
  CHECK(calm.value()->commitNs.total() == calm.value()->appends);
}

TEST_CASE("engine: appends from several threads keep their order and their bytes") {
  const TemporaryDirectory directory;
  auto primary = open(settingsOf(directory, "a"));
  REQUIRE(primary->promote(0));
  std::vector<std::thread> writers;
  for (uint8_t writer = 0; writer < 4; ++writer) {
    writers.emplace_back([&, writer] {
      std::vector<std::byte> record(1000, static_cast<std::byte>(writer));
      for (int i = 0; i < 500;) {
        if (primary->append(record)) ++i;
        else std::this_thread::yield();
      }
    });
  }
  for (auto& writer : writers) writer.join();
  CHECK(within(10'000, [&] { return primary->store().flushedLsn() == 2'000'000; }));
  int seen[4] = {};
  std::vector<std::byte> all;
  for (uint64_t lsn = 0; lsn < 2'000'000;) {
    auto chunk = primary->read(lsn, UINT64_MAX, true);
    REQUIRE(chunk);
    REQUIRE(chunk.value());
    all.insert(all.end(), chunk.value()->bytes.begin(), chunk.value()->bytes.end());
    lsn += chunk.value()->bytes.size();
  }
  for (size_t at = 0; at < all.size(); at += 1000) {
    ++seen[static_cast<int>(all[at])];
    CHECK(std::all_of(all.begin() + static_cast<ptrdiff_t>(at), all.begin() + static_cast<ptrdiff_t>(at) + 1000,
                      [&](std::byte each) { return each == all[at]; }));
  }
  for (const int count : seen) CHECK(count == 500);
}

// Which epoch a node vouches in, and what that is worth in an election.
#include "test/engine/engines.h"

using namespace walship;
using namespace walship::engines;

namespace {

EngineSettings committing(const TemporaryDirectory& directory, const std::string& node) {
  EngineSettings settings = settingsOf(directory, node);
  settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {}};
  return settings;
}

// What an election compares: the log epoch before the LSN.
bool ahead(const Promised& one, const Promised& other) {
  return std::pair(one.logEpoch, one.lsn) > std::pair(other.logEpoch, other.lsn);
}

}  // namespace

TEST_CASE("epochs: who has caught up to where an epoch began vouches in it, though no byte of it follows") {
  const TemporaryDirectory directory;
  auto primary = open(committing(directory, "a"));
  uint64_t begin = 0;
  {
    auto standby = open(settingsOf(directory, "b"));
    REQUIRE(primary->promote(0));
    follow(*standby, *primary);
    CHECK(caughtUp(*standby, appendSome(*primary, 1, 200'000)));
    CHECK(within(5000, [&] { return logEpoch(*standby) == 1; }));
    REQUIRE(standby->follow(std::nullopt));
    begin = appendSome(*primary, 2, 5u << 20);  // the standby meets the new epoch far below its begin
    CHECK(reign(*primary) == 2);
    follow(*standby, *primary);
    CHECK(primary->pump().waitCommitted(begin, 20'000));
    CHECK(logEpoch(*standby) == 2);
    CHECK(standby->store().receivedLsn() == begin);
  }
  auto again = open(settingsOf(directory, "b"));
  CHECK(logEpoch(*again) == 2);
  CHECK(again->store().received().epoch == 1);  // its last frame is of the old one
}

TEST_CASE("epochs: a new epoch passes down a cascade whose links stay up, without a byte") {
  const TemporaryDirectory directory;
  auto settings = settingsOf(directory, "a");
  settings.commitRule = {CommitLevel::flushed, CommitChoice::any, 1, {keyOf("c")}};
  auto primary = open(settings);
  auto middle = open(settingsOf(directory, "b"));
  auto leaf = open(settingsOf(directory, "c"));
  REQUIRE(primary->promote(0));
  follow(*middle, *primary);
  follow(*leaf, *middle);
  const uint64_t end = appendSome(*primary, 1, 100'000);
  REQUIRE(primary->pump().waitCommitted(end, 10'000));
  CHECK(saw(*leaf, "upstream-up"));
  for (uint64_t epoch = 2; epoch < 6; ++epoch) {
    CHECK(reign(*primary) == epoch);
    CHECK(within(5000, [&] { return logEpoch(*leaf) == epoch; }));
    CHECK(logEpoch(*middle) == epoch);
    const uint64_t more = appendSome(*primary, static_cast<uint32_t>(epoch), epoch % 2 == 0 ? 100'000 : 1);
    CHECK(primary->pump().waitCommitted(more, 10'000));
  }
  CHECK_FALSE(saw(*leaf, "upstream-down"));
}

TEST_CASE("epochs: what an older epoch left behind and a newer one committed wins against an epoch in between") {
  // Figure 8 of "In Search of an Understandable Consensus Algorithm", with three nodes.
  const TemporaryDirectory directory;
  uint64_t shared = 0;
  {
    auto a = open(committing(directory, "a"));
    auto b = open(committing(directory, "b"));
    auto c = open(committing(directory, "c"));
    // Epoch 1: a writes, and nobody else has the last of it.
    REQUIRE(a->promote(0));
    follow(*b, *a);
    follow(*c, *a);
    const uint64_t common = appendSome(*a, 1, 300'000);
    REQUIRE(caughtUp(*b, common));
    REQUIRE(caughtUp(*c, common));
    REQUIRE(b->follow(std::nullopt));
    REQUIRE(c->follow(std::nullopt));
    shared = appendSome(*a, 2, 200'000);
    // Epoch 2: c, promised by b, writes more, and nobody else has it.
    REQUIRE(b->promise(2));
    REQUIRE(c->promote(2));
    const uint64_t lonely = appendSome(*c, 3, 900'000);
    REQUIRE(caughtUp(*c, lonely));
    // Epoch 3: a is back, and ships what it wrote in epoch 1 to b: now it is committed, without a byte of epoch 3.
    REQUIRE(a->promise(3));
    REQUIRE(b->promise(3));
    REQUIRE(a->promote(3));
    follow(*b, *a);
    REQUIRE(a->pump().waitCommitted(shared, 10'000));
    // Epoch 4: a is gone. c has the longer log, and the newer last frame.
    CHECK(b->store().received().epoch < c->store().received().epoch);
    CHECK(b->store().receivedLsn() < c->store().receivedLsn());
    auto ofB = b->promise(4);
    auto ofC = c->promise(4);
    REQUIRE(ofB);
    REQUIRE(ofC);
    CHECK(ofB.value().logEpoch == 3);
    CHECK(ofC.value().logEpoch == 2);
    REQUIRE(ahead(ofB.value(), ofC.value()));
    REQUIRE(b->promote(4));
    follow(*c, *b);
    follow(*a, *b);
    const uint64_t end = appendSome(*b, 4, 100'000);
    CHECK(within(20'000, [&] { return c->store().receivedLsn() == end && logEpoch(*c) == 4; }));  // cut from beyond
    CHECK(caughtUp(*c, end));
    CHECK(caughtUp(*a, end));
  }
  checkIdentical(directory, "b", "a");
  checkIdentical(directory, "b", "c");
}

TEST_CASE("epochs: whoever has joined one follows no older primary, across a restart too") {
  const TemporaryDirectory directory;
  auto old = open(settingsOf(directory, "a"));
  auto next = open(settingsOf(directory, "b"));
  REQUIRE(old->promote(0));
  {
    auto standby = open(settingsOf(directory, "c"));
    follow(*next, *old);
    follow(*standby, *old);
    const uint64_t end = appendSome(*old, 1, 100'000);
    REQUIRE(caughtUp(*next, end));
    REQUIRE(caughtUp(*standby, end));
    REQUIRE(next->promote(2));
    follow(*standby, *next);
    CHECK(within(5000, [&] { return logEpoch(*standby) == 2; }));
  }
  auto standby = open(settingsOf(directory, "c"));
  CHECK(standby->counters()[kPromisedEpoch].load() == 2);
  const uint64_t before = standby->store().receivedLsn();
  appendSome(*old, 2, 100'000);
  follow(*standby, *old);
  CHECK(within(5000, [&] { return saw(*standby, "upstream-down", "WALSHIP_ERR_EPOCH"); }));
  CHECK(standby->store().receivedLsn() == before);
  CHECK(standby->promise(1).error().is("WALSHIP_ERR_EPOCH"));
  // Nor may it begin the epoch of another.
  CHECK(standby->promote(2).error().is("WALSHIP_ERR_EPOCH"));
}

TEST_CASE("epochs: nothing of a deposed primary passes through a node that promised") {
  const TemporaryDirectory directory;
  auto settings = settingsOf(directory, "a");
  settings.commitRule = {CommitLevel::received, CommitChoice::any, 1, {keyOf("c")}};
  auto primary = open(settings);
  auto middle = open(settingsOf(directory, "b"));
  auto leaf = open(settingsOf(directory, "c"));
  REQUIRE(primary->promote(0));
  follow(*middle, *primary);
  follow(*leaf, *middle);
  const uint64_t end = appendSome(*primary, 1, 100'000);
  REQUIRE(primary->pump().waitCommitted(end, 10'000));
  static_cast<void>(leaf->pump().drainEvents());
  auto promised = middle->promise(2);
  REQUIRE(promised);
  CHECK(promised.value().lsn == end);
  const uint64_t more = appendSome(*primary, 2, 100'000);
  CHECK_FALSE(primary->pump().waitCommitted(more, 200));
  CHECK(leaf->store().receivedLsn() == end);
  CHECK_FALSE(saw(*leaf, "upstream-down"));
  // A primary of the promised epoch takes both up where they are.
  CHECK(reign(*primary) == 2);
  follow(*middle, *primary);
  CHECK(primary->pump().waitCommitted(more, 10'000));
  CHECK_FALSE(saw(*leaf, "upstream-down"));
}

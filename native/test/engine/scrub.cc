// Copies of pages: damage in memory is not passed on, neighbours answer for their disks while the log goes on.
#include "engine/engine.h"
#include "test/engine/engines.h"

using namespace walship;
using namespace walship::engines;

namespace {

// As a stray write or a bad memory cell would: behind the checksum's back.
void flipInMemory(Engine& node, uint64_t page, uint32_t offset) {
  const Pin pin = node.arena().find(page, Access::scrub);
  REQUIRE(pin);
  pin.data()[offset] ^= std::byte{4};
}

PageCopies copiesOfPage(Engine& node, uint64_t page) {
  auto copies = copiesOf(node.store(), page, 1, Places::diskAndMemory, [](size_t) {});
  REQUIRE(copies);
  return copies.value()[0];
}

bool expectedOf(const Error& error) {
  return error.is("WALSHIP_ERR_NODE") || error.is("WALSHIP_ERR_LINK_CLOSED") || error.is("WALSHIP_ERR_BUSY");
}

}  // namespace

TEST_CASE("scrub: a page damaged in the primary's memory is refused downstream, and good again from disk") {
  const TemporaryDirectory directory;
  const auto a = open(settingsOf(directory, "a"));
  const auto b = open(settingsOf(directory, "b"));
  REQUIRE(a->promote(0));
  const uint64_t end = appendSome(*a, 1, 1'000'000);
  REQUIRE(caughtUp(*a, end));
  flipInMemory(*a, 3, 20'000);
  CHECK(copiesOfPage(*a, 3).disk.state == CopyState::good);
  CHECK(copiesOfPage(*a, 3).memory.state == CopyState::damaged);

  follow(*b, *a);
  REQUIRE(within(10'000, [&] { return saw(*b, "upstream-down", "WALSHIP_ERR_FRAME_INVALID"); }));
  // Nothing of it is taken, however often it is tried.
  const auto ends = copiesOfPage(*a, 2).disk.endLsn;
  CHECK(b->store().receivedLsn() >= ends);
  CHECK(b->store().receivedLsn() < copiesOfPage(*a, 3).disk.endLsn);

  // A session may hold the page just now.
  REQUIRE(within(10'000, [&] { return a->arena().drop(3); }));
  REQUIRE(caughtUp(*b, end));
  REQUIRE(a->close());
  REQUIRE(b->close());
  checkIdentical(directory, "a", "b");
}

TEST_CASE("scrub: neighbours are asked in both directions, and say what is on their disks") {
  const TemporaryDirectory directory;
  auto nodes = chain(directory);
  auto& [a, b, c] = nodes;
  const uint64_t end = appendSome(*a, 2, 8'000'000);
  for (const auto& node : nodes) REQUIRE(caughtUp(*node, end));
  const PageRange range = completePages(b->store());
  REQUIRE(range.end > kCopiesPerReplyMax);

  for (const std::string neighbour : {"a", "c"}) {
    const auto theirs = b->copiesAt(neighbour, 0, kCopiesPerReplyMax);
    REQUIRE(theirs);
    const auto ours = copiesOf(b->store(), 0, kCopiesPerReplyMax, Places::disk, [](size_t) {});
    REQUIRE(ours);
    for (size_t i = 0; i < kCopiesPerReplyMax; ++i) {
      CHECK(theirs.value()[i].state == CopyState::good);
      CHECK(theirs.value()[i] == ours.value()[i].disk);
    }
    const auto bytes = b->pageAt(neighbour, 7);
    REQUIRE(bytes);
    CHECK(checksum(bytes.value()) == theirs.value()[7].sum);
  }
  // What is not complete yet is not told, nor what was never there.
  const auto beyond = b->copiesAt("a", range.end + 1000, 3);
  REQUIRE(beyond);
  for (const PageCopy& copy : beyond.value()) CHECK(copy.state == CopyState::absent);
  CHECK(b->pageAt("a", range.end + 1000).error().is("WALSHIP_ERR_LOG_POSITION"));
  CHECK(a->copiesAt("c", 0, 1).error().is("WALSHIP_ERR_NODE"));  // no neighbour of a's
}

TEST_CASE("scrub: questions under load, with links that come and go, are answered or refused, and disturb nothing") {
  const TemporaryDirectory directory;
  auto nodes = chain(directory);
  auto& [a, b, c] = nodes;
  std::atomic<bool> done{false};
  std::atomic<uint32_t> answered{0};
  std::atomic<uint32_t> strange{0};
  std::vector<std::thread> askers;
  const auto ask = [&](Engine& node, const std::string& neighbour, uint32_t seed) {
    askers.emplace_back([&node, &done, &answered, &strange, neighbour, seed] {
      std::mt19937 random(seed);
      while (!done.load()) {
        const uint64_t page = random() % 64;
        const auto copies = node.copiesAt(neighbour, page, 1 + random() % 8);
        if (!copies && !expectedOf(copies.error())) ++strange;
        const auto bytes = node.pageAt(neighbour, page);
        if (!bytes && !expectedOf(bytes.error()) && !bytes.error().is("WALSHIP_ERR_LOG_POSITION")) ++strange;
        if (copies && bytes) {
          ++answered;
          // What was said and what came may differ only if the page was not complete yet.
          const PageCopy& copy = copies.value()[0];
          if (copy.state == CopyState::good && checksum(bytes.value()) != copy.sum) ++strange;
        }
      }
    });
  };
  ask(*a, "b", 1);
  ask(*b, "a", 2);
  ask(*b, "c", 3);
  ask(*b, "c", 4);  // they stand in each other's way
  ask(*c, "b", 5);
  uint64_t end = 0;
  for (uint32_t i = 0; i < 20; ++i) {
    end = appendSome(*a, 10 + i, 400'000);
    if (i % 4 == 3) {
      REQUIRE(b->follow(std::nullopt));
      follow(*b, *a);
    }
  }
  for (const auto& node : nodes) CHECK(caughtUp(*node, end));
  CHECK(within(20'000, [&] { return answered.load() > 50; }));
  done.store(true);
  for (auto& asker : askers) asker.join();
  CHECK(strange.load() == 0);
  for (const auto& node : nodes) REQUIRE(node->close());
  checkIdentical(directory, "a", "b");
  checkIdentical(directory, "a", "c");
}

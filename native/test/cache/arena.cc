#include "cache/arena.h"

#include <doctest/doctest.h>

#include <thread>

using namespace walship;

namespace {

constexpr uint32_t kPage = 64u << 10;

std::unique_ptr<Arena> make(uint32_t slots) { return Arena::create(slots, kPage, false).take(); }

// A page that may leave: finished and flushed.
void fill(Arena& arena, uint64_t page) {
  Pin pin = arena.create(page, PageOrigin::appended);
  REQUIRE(pin);
  std::memset(pin.data(), static_cast<int>(page), kPage);
  arena.publish(pin, {page + 1, 0, 1, page, kPage - 8});
  arena.finish(pin);
  arena.setFlushed(pin);
}

}  // namespace

TEST_CASE("arena: a page leaves only when it is finished, flushed and unpinned") {
  auto arena = make(2);
  Pin unfinished = arena->create(1, PageOrigin::appended);
  fill(*arena, 2);
  SUBCASE("pinned") {
    const Pin pinned = arena->find(2, Access::ship);
    CHECK_FALSE(arena->create(3, PageOrigin::appended));
    CHECK(arena->starved.load());
  }
  SUBCASE("unpinned") {
    const Pin next = arena->create(3, PageOrigin::appended);
    CHECK(next);
    CHECK_FALSE(arena->contains(2));
    // Nothing else can leave: page 1 is pinned and unfinished, page 3 is new.
    CHECK_FALSE(arena->create(4, PageOrigin::appended));
  }
  SUBCASE("finished but not flushed") {
    arena->publish(unfinished, {2, 0, 1, 1, 128});
    arena->finish(unfinished);
    unfinished.release();
    const Pin other = arena->find(2, Access::ship);
    CHECK_FALSE(arena->create(3, PageOrigin::appended));
  }
}

TEST_CASE("arena: victims are taken in the order offered, stale ones are passed over") {
  auto arena = make(4);
  for (uint64_t page = 0; page < 4; ++page) fill(*arena, page);
  int64_t pages[4];
  arena->slotPages(pages);
  std::vector<uint32_t> slots;
  std::vector<double> numbers;
  for (const uint64_t wanted : {2ull, 9ull, 0ull}) {  // 9 is not there any more
    for (uint32_t slot = 0; slot < 4; ++slot) {
      if (pages[slot] == static_cast<int64_t>(wanted == 9 ? 3 : wanted)) {
        slots.push_back(slot);
        numbers.push_back(static_cast<double>(wanted));
      }
    }
  }
  arena->offerVictims(slots.data(), numbers.data(), slots.size());
  Pin first = arena->create(10, PageOrigin::appended);
  CHECK_FALSE(arena->contains(2));
  Pin second = arena->create(11, PageOrigin::appended);
  CHECK_FALSE(arena->contains(0));
  CHECK(arena->contains(3));
  CHECK(arena->counters().evictionsFromList == 2);
  // The list is empty: the arena helps itself.
  Pin third = arena->create(12, PageOrigin::appended);
  CHECK(third);
  CHECK(arena->counters().evictionsUnlisted == 1);
}

TEST_CASE("arena: without a list, pages read lately stay") {
  auto arena = make(3);
  for (uint64_t page = 0; page < 3; ++page) fill(*arena, page);
  { const Pin read = arena->find(0, Access::catchUp); }
  { const Pin read = arena->find(1, Access::tailRead); }
  { const Pin shipped = arena->find(2, Access::ship); }  // not an access
  const Pin next = arena->create(3, PageOrigin::appended);
  CHECK(arena->contains(0));
  CHECK(arena->contains(1));
  CHECK_FALSE(arena->contains(2));
}

TEST_CASE("arena: a page being loaded is invisible, then flushed and finished") {
  auto arena = make(2);
  Pin loading = arena->create(7, PageOrigin::loaded);
  CHECK(arena->contains(7));
  CHECK_FALSE(arena->find(7, Access::catchUp));
  arena->publishLoaded(loading, {100, 1, 1, 7, 4096}, true);
  CHECK(arena->find(7, Access::catchUp).filled() == 4096);
  loading.release();
  CHECK(arena->available() == 2);
}

TEST_CASE("arena: cutting back forgets later pages and shortens the tail") {
  auto arena = make(4);
  for (uint64_t page = 0; page < 3; ++page) fill(*arena, page);
  Pin held = arena->find(2, Access::ship);
  const LogPosition to{1, 5, 1, 1, 640};
  CHECK_FALSE(arena->cutBack(to));  // page 2 is pinned
  held.release();
  CHECK(arena->cutBack(to));
  CHECK_FALSE(arena->contains(2));
  const Pin tail = arena->find(1, Access::ship);
  CHECK(tail.filled() == 640);
  CHECK_FALSE(tail.finished());
  CHECK(arena->end(tail) == to);
}

TEST_CASE("arena: events tell the policy what came and went, in order") {
  auto arena = make(2);
  fill(*arena, 1);
  fill(*arena, 2);
  Pin third = arena->create(3, PageOrigin::loaded);
  arena->publishLoaded(third, {9, 0, 1, 3, 64}, true);
  ArenaEvent events[8];
  const size_t count = arena->drainEvents(events, 8);
  REQUIRE(count == 4);
  CHECK(events[0].kind == ArenaEvent::appended);
  CHECK(events[2].kind == ArenaEvent::removed);
  CHECK(events[2].page == 1);
  CHECK(events[3].kind == ArenaEvent::loaded);
  CHECK(events[3].slot == events[2].slot);
}

TEST_CASE("arena: readers and an evicting writer share it without tearing a page") {
  auto arena = make(8);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> newest{0};
  fill(*arena, 0);
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!stop.load()) {
        const uint64_t page = newest.load();
        const Pin pin = arena->find(page, Access::tailRead);
        if (!pin || !pin.finished()) continue;
        for (size_t at = 0; at < 4096; at += 512) WALSHIP_ASSERT(pin.data()[at] == static_cast<std::byte>(page));
      }
    });
  }
  for (uint64_t page = 1; page < 3000; ++page) {
    Pin pin = arena->create(page, PageOrigin::appended);
    if (!pin) {
      --page;
      continue;
    }
    std::memset(pin.data(), static_cast<int>(page & 0xff), 4096);
    arena->publish(pin, {page + 1, 0, 1, page, 4096});
    arena->finish(pin);
    arena->setFlushed(pin);
    newest.store(page);
  }
  stop.store(true);
  for (auto& reader : readers) reader.join();
  CHECK(arena->counters().evictionsUnlisted >= 2900);
}

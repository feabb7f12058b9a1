#include "replication/freshness.h"

#include <doctest/doctest.h>

using namespace walship;

namespace {
constexpr uint64_t kMs = 1'000'000;
}

TEST_CASE("freshness: whoever has everything below an LSN has what was made by the newest mark at it") {
  Freshness marks;
  CHECK(marks.asOfNs(5) == 0);
  CHECK(marks.oldestNs() == 0);
  marks.add(100, 10 * kMs);
  marks.add(200, 20 * kMs);
  marks.add(300, 30 * kMs);
  CHECK(marks.asOfNs(99) == 0);
  CHECK(marks.asOfNs(100) == 10 * kMs);
  CHECK(marks.asOfNs(250) == 20 * kMs);
  CHECK(marks.asOfNs(9999) == 30 * kMs);
  CHECK(marks.oldestNs() == 10 * kMs);
}

TEST_CASE("freshness: a primary that makes nothing makes nobody late") {
  Freshness marks;
  marks.add(100, 10 * kMs);
  marks.add(100, 5000 * kMs);
  CHECK(marks.asOfNs(100) == 5000 * kMs);
  // What comes late says nothing new.
  marks.add(100, 4000 * kMs);
  marks.add(150, 4000 * kMs);
  CHECK(marks.asOfNs(100) == 5000 * kMs);
  CHECK(marks.asOfNs(150) == 5000 * kMs);
}

TEST_CASE("freshness: marks of what was cut are forgotten") {
  Freshness marks;
  marks.add(100, 10 * kMs);
  marks.add(200, 20 * kMs);
  marks.cutTo(150);
  CHECK(marks.asOfNs(200) == 10 * kMs);
  marks.add(300, 30 * kMs);
  // Another primary, whose log is shorter.
  marks.add(120, 40 * kMs);
  CHECK(marks.asOfNs(300) == 40 * kMs);
  CHECK(marks.asOfNs(110) == 10 * kMs);
}

TEST_CASE("freshness: thinned marks never make a node younger than it is") {
  Freshness marks;
  for (uint64_t i = 1; i <= 100'000; ++i) marks.add(10 * i, i * kMs);
  for (const uint64_t at : {1u, 777u, 50'000u, 95'123u, 99'999u, 100'000u}) {
    const uint64_t asOf = marks.asOfNs(10 * at);
    CHECK(asOf <= at * kMs);
    CHECK(asOf > 0);
  }
  CHECK(marks.asOfNs(1'000'000) == 100'000 * kMs);
  CHECK(100'000 * kMs - marks.asOfNs(999'000) < 200 * kMs);
}

#include "log/history.h"

#include <doctest/doctest.h>

#include "test/log/support.h"

namespace walship::test {
namespace {

TEST_CASE("two logs agree up to where the first of them left their newest common epoch") {
  // The same history: up to the shorter one.
  CHECK(commonLsn({{1, 0}}, 100, {{1, 0}}, 70) == 70);
  // We went on in epoch 2 at 80; they stayed in epoch 1 and have more: up to 80.
  CHECK(commonLsn({{1, 0}, {2, 80}}, 200, {{1, 0}}, 100) == 80);
  CHECK(commonLsn({{1, 0}, {2, 80}}, 200, {{1, 0}}, 60) == 60);
  // Both went on, in different epochs.
  CHECK(commonLsn({{1, 0}, {2, 80}}, 200, {{1, 0}, {3, 90}}, 300) == 80);
  CHECK(commonLsn({{1, 0}, {3, 90}}, 300, {{1, 0}, {2, 80}}, 200) == 80);
  // They missed epoch 2 and share epoch 3.
  CHECK(commonLsn({{1, 0}, {2, 50}, {3, 90}}, 300, {{1, 0}, {3, 90}}, 250) == 250);
  // The same epoch number at another LSN is not the same epoch.
  CHECK(commonLsn({{1, 0}, {2, 80}}, 200, {{1, 0}, {2, 90}}, 200) == 80);
  // An epoch that begins at the tail.
  CHECK(commonLsn({{1, 0}, {2, 100}}, 100, {{1, 0}}, 100) == 100);
  // Nothing yet on one side.
  CHECK(commonLsn({}, 0, {{1, 0}, {2, 80}}, 200) == 0);
  CHECK(commonLsn({{1, 0}}, 50, {}, 0) == 0);
  CHECK(commonLsn({}, 0, {}, 0) == 0);
  // Nothing in common.
  CHECK(commonLsn({{2, 40}}, 100, {{1, 0}}, 100) == 0);
  CHECK(commonLsn({{2, 40}}, 100, {{3, 60}}, 100) == 40);
}

TEST_CASE("the record of a node survives, and is empty at first") {
  const ScratchDirectory dir;
  auto record = NodeRecordFile::load(dir.path());
  REQUIRE(record.ok());
  CHECK(record.value().history.empty());
  CHECK(record.value().promisedEpoch == 0);
  NodeRecord stored{{{1, 0}, {2, 500}, {9, 500}}, 11, 400};
  REQUIRE(NodeRecordFile::store(dir.path(), stored).ok());
  stored.history.push_back({12, 700});
  stored.promisedEpoch = 12;
  REQUIRE(NodeRecordFile::store(dir.path(), stored).ok());
  record = NodeRecordFile::load(dir.path());
  REQUIRE(record.ok());
  CHECK(record.value().history == stored.history);
  CHECK(record.value().promisedEpoch == 12);
  CHECK(record.value().protectedLsn == 400);
}

TEST_CASE("damage anywhere in the record of a node is found") {
  const ScratchDirectory dir;
  REQUIRE(NodeRecordFile::store(dir.path(), {{{1, 0}, {2, 500}}, 2, 400}).ok());
  const std::string file = dir / "epochs";
  const auto bytes = readFile(file);
  for (uint64_t bit = 0; bit < bytes.size() * 8; ++bit) {
    flipBit(file, bit / 8, static_cast<int>(bit % 8));
    auto record = NodeRecordFile::load(dir.path());
    REQUIRE_FALSE(record.ok());
    CHECK(record.error().is("WALSHIP_ERR_LOG_CORRUPT"));
    CHECK(record.error().file == file);
    flipBit(file, bit / 8, static_cast<int>(bit % 8));
  }
  for (size_t size = 0; size < bytes.size(); ++size) {
    writeFile(file, Bytes(bytes).first(size));
    CHECK_FALSE(NodeRecordFile::load(dir.path()).ok());
  }
}

TEST_CASE("a crash while the record is stored leaves the old one") {
  const ScratchDirectory dir;
  REQUIRE(NodeRecordFile::store(dir.path(), {{{1, 0}}, 5, 0}).ok());
  const auto bytes = readFile(dir / "epochs");
  writeFile(dir / "epochs.new", Bytes(bytes).first(10));
  CHECK(NodeRecordFile::load(dir.path()).value().promisedEpoch == 5);
  RecoveryReport report;
  REQUIRE(Log::open(smallSettings(dir.path()), &report).ok());
  CHECK(report.note.empty());
  CHECK_FALSE(sizeOf(dir / "epochs.new").ok());
}

}  // namespace
}  // namespace walship::test

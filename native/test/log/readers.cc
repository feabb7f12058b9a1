#include "log/readers.h"

#include <doctest/doctest.h>

#include "test/log/support.h"

namespace walship::test {
namespace {

TEST_CASE("readers are kept across restarts") {
  const ScratchDirectory dir;
  {
    ReaderRegistry readers(dir.path());
    REQUIRE(readers.load().ok());
    CHECK_FALSE(readers.slowest().has_value());
    REQUIRE(readers.set("b", 500).ok());
    REQUIRE(readers.set("a", 700).ok());
    REQUIRE(readers.set("c", 600).ok());
    CHECK(readers.slowest()->name == "b");
    REQUIRE(readers.set("b", 900).ok());
    CHECK(readers.slowest()->name == "c");
    REQUIRE(readers.remove("c").ok());
    REQUIRE(readers.remove("nobody").ok());
  }
  ReaderRegistry readers(dir.path());
  REQUIRE(readers.load().ok());
  REQUIRE(readers.list().size() == 2);
  CHECK(readers.list()[0].name == "a");
  CHECK(readers.list()[0].lastSeenWallUs > 0);
  // Progress is stored with the next registration, removal or store(): b was at 900 when c went.
  CHECK(readers.list()[1].lsn == 900);
  REQUIRE(readers.set("b", 950).ok());
  REQUIRE(readers.store().ok());
  ReaderRegistry again(dir.path());
  REQUIRE(again.load().ok());
  CHECK(again.list() == readers.list());
}

TEST_CASE("names and their number are bounded") {
  const ScratchDirectory dir;
  ReaderRegistry readers(dir.path());
  CHECK(readers.set("", 1).error().is("WALSHIP_ERR_READER_INVALID"));
  CHECK(readers.set(std::string(kReaderNameBytesMax + 1, 'x'), 1).error().is("WALSHIP_ERR_READER_INVALID"));
  for (size_t index = 0; index < kReadersMax; ++index) {
    std::string name = std::to_string(index);
    name.resize(kReaderNameBytesMax, '-');
    REQUIRE(readers.set(name, index).ok());
  }
  CHECK(readers.set("one more", 1).error().is("WALSHIP_ERR_READER_INVALID"));
  CHECK(readers.list().size() == kReadersMax);
  ReaderRegistry again(dir.path());
  REQUIRE(again.load().ok());
  CHECK(again.list() == readers.list());
}

TEST_CASE("a reader that could not be stored is not registered") {
  ReaderRegistry readers("/nowhere/at/all");
  CHECK_FALSE(readers.set("a", 1).ok());
  CHECK(readers.list().empty());
}

TEST_CASE("damage anywhere in the readers' file is found, and the error says what to do") {
  const ScratchDirectory dir;
  ReaderRegistry readers(dir.path());
  REQUIRE(readers.set("standby-1", 500).ok());
  const std::string file = dir / "readers";
  const auto bytes = readFile(file);
  for (uint64_t bit = 0; bit < bytes.size() * 8; ++bit) {
    flipBit(file, bit / 8, static_cast<int>(bit % 8));
    auto loaded = readers.load();
    REQUIRE_FALSE(loaded.ok());
    CHECK(loaded.error().file == file);
    CHECK(loaded.error().message.find("remove it") != std::string::npos);
    flipBit(file, bit / 8, static_cast<int>(bit % 8));
  }
  for (size_t size = 0; size < bytes.size(); ++size) {
    writeFile(file, Bytes(bytes).first(size));
    CHECK_FALSE(readers.load().ok());
  }
}

TEST_CASE("retention: bytes behind the tail, the slowest reader, the bound on it") {
  LogSettings settings;
  settings.retainBytes = 100;
  CHECK(retentionLsn(1000, settings, kNoReader) == 900);
  CHECK(retentionLsn(50, settings, kNoReader) == 0);
  CHECK(retentionLsn(100, settings, kNoReader) == 0);
  CHECK(retentionLsn(1000, settings, 950) == 900);
  CHECK(retentionLsn(1000, settings, 400) == 400);
  CHECK(retentionLsn(1000, settings, 0) == 0);
  settings.retainBytesMax = 500;
  CHECK(retentionLsn(1000, settings, 400) == 500);
  CHECK(retentionLsn(1000, settings, 600) == 600);
  CHECK(retentionLsn(1000, settings, kNoReader) == 900);
  CHECK(retentionLsn(300, settings, 0) == 0);
  settings.retainBytes = 0;
  CHECK(retentionLsn(1000, settings, kNoReader) == 1000);
}

}  // namespace
}  // namespace walship::test

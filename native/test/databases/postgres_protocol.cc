// What PostgreSQL's protocol says, taken apart and put together again; and everything else refused.
#include <doctest/doctest.h>

#include "databases/postgres/command.h"
#include "databases/postgres/history.h"
#include "databases/postgres/protocol.h"
#include "databases/postgres/stream.h"
#include "databases/postgres/wal.h"

using namespace walship;
using namespace walship::postgres;

namespace {

Bytes bytesIn(const std::string& text) { return std::as_bytes(std::span(text)); }

template <class T>
T parsed(const std::string& text) {
  auto command = parseCommand(text);
  REQUIRE_MESSAGE(command.ok(), text);
  REQUIRE_MESSAGE(std::holds_alternative<T>(command.value()), text);
  return std::get<T>(command.value());
}

std::string problemOf(const std::string& text) {
  auto command = parseCommand(text);
  REQUIRE_MESSAGE(!command.ok(), text);
  return command.error().message;
}

Buffer startupPacket(uint32_t code, const std::string& parameters) {
  Buffer packet;
  putBig(packet, code);
  putText(packet, parameters);
  return packet;
}

}  // namespace

TEST_CASE("postgres: replication commands as real clients write them") {
  parsed<IdentifySystem>("IDENTIFY_SYSTEM");
  parsed<Nothing>("  ;");
  CHECK(parsed<Show>("SHOW wal_segment_size").name == "wal_segment_size");
  CHECK(parsed<TimelineHistory>("TIMELINE_HISTORY 2").timeline == 2);
  auto start = parsed<StartReplication>("START_REPLICATION 0/3000000 TIMELINE 1");
  CHECK(start.lsn == 0x3000000);
  CHECK(start.timeline == 1);
  CHECK(!start.slot);
  start = parsed<StartReplication>("START_REPLICATION SLOT \"a_1\" PHYSICAL 1F/B374D848");
  CHECK(*start.slot == "a_1");
  CHECK(start.lsn == 0x1FB374D848);
  CHECK(start.timeline == 0);
  auto create = parsed<CreateSlot>("CREATE_REPLICATION_SLOT \"pg_basebackup_1\" TEMPORARY PHYSICAL ( RESERVE_WAL)");
  CHECK((create.temporary && create.reserve && create.slot == "pg_basebackup_1"));
  create = parsed<CreateSlot>("CREATE_REPLICATION_SLOT archive PHYSICAL (RESERVE_WAL false)");
  CHECK((!create.temporary && !create.reserve));
  CHECK(parsed<CreateSlot>("CREATE_REPLICATION_SLOT archive PHYSICAL RESERVE_WAL").reserve);
  CHECK(parsed<ReadSlot>("READ_REPLICATION_SLOT \"x\"").slot == "x");
  CHECK(parsed<DropSlot>("DROP_REPLICATION_SLOT x WAIT").slot == "x");
  const std::string backup = "BASE_BACKUP ( LABEL 'a ''b''', PROGRESS)";
  CHECK(parsed<BaseBackup>(backup).text == backup);
  CHECK(parsed<ForServer>("SELECT 1").word == "SELECT");
}

TEST_CASE("postgres: commands that are wrong") {
  CHECK(problemOf("START_REPLICATION") == "syntax error at end of command");
  CHECK(problemOf("START_REPLICATION 0/G") == "syntax error at or near \"0/G\"");
  CHECK(problemOf("START_REPLICATION 0/1/2") == "syntax error at or near \"0/1/2\"");
  CHECK(problemOf("START_REPLICATION 0/1 TIMELINE 0") == "invalid timeline 0");
  CHECK(problemOf("START_REPLICATION 0/1 TIMELINE 4294967296") == "syntax error at or near \"4294967296\"");
  CHECK(problemOf("IDENTIFY_SYSTEM now") == "syntax error at or near \"now\"");
  CHECK(problemOf("CREATE_REPLICATION_SLOT \"A\" PHYSICAL").starts_with("replication slot name \"A\""));
  CHECK(problemOf("READ_REPLICATION_SLOT \"never closed") == "syntax error at or near \"\"\"");
  CHECK(problemOf("READ_REPLICATION_SLOT " + std::string(64, 'a')).find("too long") != std::string::npos);
}

TEST_CASE("postgres: messages of the stream come back as they went out") {
  Buffer out;
  encode(out, StandbyStatus{1, 2, 3, 4, true});
  auto status = parseStandbyMessage(out);
  REQUIRE(status);
  CHECK(std::get<StandbyStatus>(status.value()).flushed == 2);
  CHECK(std::get<StandbyStatus>(status.value()).replyWanted);
  out.clear();
  encodeHeader(out, WalData{0x100, 0x200, 5, {}});
  CHECK(out.size() == kWalDataHeaderBytes);
  putText(out, "wal");
  auto data = parseServerMessage(out);
  REQUIRE(data);
  CHECK(std::get<WalData>(data.value()).startLsn == 0x100);
  CHECK(std::get<WalData>(data.value()).bytes.size() == 3);
  out.clear();
  encode(out, KeepAlive{7, 8, false});
  // Every message that is a byte too short or too long is refused.
  CHECK(parseServerMessage(out));
  CHECK(!parseServerMessage(Bytes(out).first(out.size() - 1)));
  out.push_back(std::byte{0});
  CHECK(!parseServerMessage(out));
  CHECK(!parseServerMessage({}));
  CHECK(!parseStandbyMessage({}));
  CHECK(!parseServerMessage(bytesIn("x")));
}

TEST_CASE("postgres: what a standby needs, in one number") {
  const HotStandbyFeedback feedback{0, 700, 3, 0, 3};
  CHECK(horizonOf(feedback) == Horizon{(3ull << 32) + 700, 0});
  const HotStandbyFeedback back = feedbackOf(horizonOf(feedback));
  CHECK((back.xmin == 700 && back.xminEpoch == 3 && back.catalogXmin == 0));
  CHECK(horizonOf({0, 2, 9, 1, 9}) == Horizon{});  // no transaction at all
  CHECK(horizonOf(feedbackOf({})) == Horizon{});
}

TEST_CASE("postgres: start-up packets") {
  using namespace std::string_literals;
  const uint32_t version = 3u << 16;
  auto startup = parseStartup(startupPacket(version, "user\0me\0replication\0true\0\0"s));
  REQUIRE(startup);
  CHECK(startup.value().physicalReplication());
  CHECK(startup.value().parameter("user") == "me");
  CHECK(startup.value().parameter("database").empty());
  CHECK(parseStartup(startupPacket(80877103, "")).value().kind == StartupKind::wantsTls);
  CHECK(!parseStartup(startupPacket(80877103, "x")));
  CHECK(!parseStartup(startupPacket(2u << 16, "\0"s)));
  CHECK(!parseStartup(startupPacket(version, "user\0me\0"s)));
  CHECK(!parseStartup(startupPacket(version, "user\0me\0\0more"s)));
  CHECK(!parseStartup(startupPacket(version, "user"s)));
  Buffer length;
  putBig(length, uint32_t{7});
  CHECK(!startupLength(length));
  length.clear();
  putBig(length, uint32_t{10'001});
  CHECK(!startupLength(length));
  const std::string tooLong("Q\x7f\xff\xff\xff", 5);
  CHECK(!parseMessageHeader(bytesIn(tooLong)));
}

TEST_CASE("postgres: the end of a server's answer is found however it is cut") {
  Buffer answer;
  putParameter(answer, "Z", "Z");
  putRow(answer, {{"recptr", kTextType, -1}}, {"Z0/1"});
  putCopyHeader(answer, 0);
  putComplete(answer, "SELECT");
  const size_t ready = answer.size();
  putReady(answer);
  const size_t whole = answer.size();
  putReady(answer);  // of something else
  for (size_t step = 1; step <= answer.size(); ++step) {
    AnswerBounds bounds;
    size_t passed = 0;
    while (!bounds.complete()) {
      const size_t cut = std::min(step, answer.size() - passed);
      const auto taken = bounds.take(Bytes(answer).subspan(passed, cut));
      REQUIRE(taken);
      passed += taken.value();
      if (passed == ready) CHECK((bounds.betweenMessages() && bounds.lastType() == 'C'));
      if (passed > ready && passed < whole) CHECK(!bounds.betweenMessages());
    }
    CHECK(passed == whole);
  }
  AnswerBounds bounds;
  const std::string tooShort("Z\0\0\0\3", 5);
  CHECK(!bounds.take(bytesIn(tooShort)));
}

TEST_CASE("postgres: SASL messages") {
  using namespace std::string_literals;
  const std::string well = "SCRAM-SHA-256\0\0\0\0\3n,,"s;
  const auto initial = parseSaslInitial(bytesIn(well));
  REQUIRE(initial);
  CHECK(initial.value().mechanism == "SCRAM-SHA-256");
  CHECK(initial.value().response == "n,,");
  const std::string silent = "X\0\xff\xff\xff\xff"s;
  CHECK(parseSaslInitial(bytesIn(silent)).value().response.empty());
  for (const std::string& wrong : {""s, "X"s, "X\0"s, "X\0\0\0\0\2n"s, "X\0\0\0\0\1nn"s}) {
    CHECK(!parseSaslInitial(bytesIn(wrong)));
  }
}

TEST_CASE("postgres: LSNs, names of files, history files") {
  CHECK(formatLsn(0x1FB374D848) == "1F/B374D848");
  CHECK(parseLsn("1f/b374d848") == 0x1FB374D848);
  for (const char* wrong : {"", "/", "1/", "/1", "123456789/0", "0/1x", "1"}) CHECK(!parseLsn(wrong));
  CHECK(walFileName(1, 0x2A000000, 16u << 20) == "00000001000000000000002A");
  CHECK(walFileName(3, 0x200000000, 1u << 30) == "000000030000000200000000");
  auto ends = parseHistory("1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tbefore 2000-01-01\n");
  REQUIRE(ends);
  CHECK(ends.value() == std::vector<TimelineEnd>{{1, 0x3000158}, {2, 0x5000000}});
  CHECK(parseHistory("# nothing\n").value().empty());
  for (const char* wrong : {"x\n", "1\n", "1 0\n", "0\t0/1\n", "2\t0/1\n1\t0/2\n", "1\t0/2\n2\t0/1\n"}) {
    CHECK_MESSAGE(!parseHistory(wrong), wrong);
  }
}

TEST_CASE("postgres: a WAL page is known by its header, and only where it belongs") {
  Buffer page(kWalPageBytes);
  const auto set = [&](size_t at, auto value) { std::memcpy(page.data() + at, &value, sizeof value); };
  set(0, uint16_t{0xD110});
  set(2, uint16_t{2});
  set(4, uint32_t{7});
  set(8, uint64_t{0x3000000});
  set(24, uint64_t{4711});
  set(32, uint32_t{16u << 20});
  set(36, uint32_t{8192});
  auto identity = parseSegmentStart(page, 0x3000000);
  REQUIRE(identity);
  CHECK(identity.value().systemId == 4711);
  CHECK(identity.value().timeline == 7);
  CHECK(identity.value().majorVersion() == 15);
  CHECK(!parseSegmentStart(page, 0x4000000));
  CHECK(!parseSegmentStart(Bytes(page).first(39), 0x3000000));
  CHECK(parseWalPageHeader(Bytes(page).first(24), 0x3000000));
  CHECK(!parseWalPageHeader(Bytes(page).first(23), 0x3000000));
  set(32, uint32_t{(16u << 20) + 1});
  CHECK(!parseSegmentStart(page, 0x3000000));
  set(0, uint16_t{0});
  CHECK(!parseWalPageHeader(page, 0x3000000));
}

TEST_CASE("postgres: the record that enters a timeline, as PostgreSQL 15 wrote it") {
  // End of recovery at 0/3000158: to timeline 2 from 1 (made with the checksum of the bytes themselves below).
  Buffer record(50);
  const auto set = [&](size_t at, auto value) { std::memcpy(record.data() + at, &value, sizeof value); };
  set(0, uint32_t{50});
  set(16, uint8_t{0x90});
  set(24, uint8_t{255});
  set(25, uint8_t{24});
  set(34, uint32_t{2});
  set(38, uint32_t{1});
  CHECK(looksLikeTimelineRecord(record).bytes == 50);
  CHECK(!timelineInRecord(record));  // its checksum is wrong
  const auto crcOf = [](uint32_t crc, Bytes bytes) {
    for (const std::byte each : bytes) {
      crc ^= std::to_integer<uint32_t>(each);
      for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
    }
    return crc;
  };
  set(20, crcOf(crcOf(~0u, Bytes(record).subspan(24)), Bytes(record).first(20)) ^ ~0u);
  CHECK(timelineInRecord(record) == 2);
  CHECK(!timelineInRecord(Bytes(record).first(49)));
  set(17, uint8_t{1});
  CHECK(looksLikeTimelineRecord(record).bytes == 0);
}

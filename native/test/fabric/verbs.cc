// What the verbs side can be held to without a device: what it says about this host, its choices, its
// parsers, its flow control. The rest is in verbs_link.cc and verbs_fault.cc, which run in the Soft-RoCE lab.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <random>

#include "fabric/verbs/capabilities.h"
#include "fabric/verbs/connect.h"
#include "fabric/verbs/credits.h"
#include "fabric/verbs/endpoint.h"
#include "fabric/verbs/library.h"
#include "fabric/verbs/wire.h"

using namespace walship;

namespace {

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/walship-verbs-XXXXXX";
    REQUIRE(::mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(path_ + "/" + file).parent_path());
    std::ofstream(path_ + "/" + file) << text << '\n';
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

VerbsGid gidAt(int index, const std::string& address, const std::string& type, const std::string& netdev) {
  return {index, *gidOfAddress(address), address, type, netdev};
}

VerbsCapabilities twoDevices() {
  VerbsCapabilities found;
  found.state = VerbsState::kReady;
  const std::string v2 = "RoCE v2";
  VerbsPort first{1, "ACTIVE", "Ethernet", "25 Gb/sec (1X EDR)", 1024, 4096, {}};
  first.gids = {gidAt(0, "fe80::1", "IB/RoCE v1", "eth0"),
                gidAt(1, "fe80::1", v2, "eth0"),
                gidAt(2, "2001:db8::1", v2, "eth0"),
                gidAt(3, "10.0.0.1", v2, "eth0"),
                gidAt(4, "10.0.0.9", v2, ""),
                gidAt(5, "10.0.1.1", v2, "eth0.5")};
  VerbsPort second = first;
  second.gids = {gidAt(0, "10.0.2.1", v2, "eth1")};
  second.activeMtuBytes = 4096;
  VerbsPort third = second;
  third.port = 2;
  third.state = "DOWN";
  found.devices = {
      {"mlx5_0", "", {first}}, {"mlx5_1", "", {second, third}}, {"mlx5_2", "cannot open it: no", {}}};
  return found;
}

}  // namespace

TEST_CASE("verbs: capabilities name what is missing") {
  const auto here = verbsCapabilities();
  MESSAGE("this host: ", std::string(nameOf(here.state)), " ", here.detail);
  CHECK(here.detail.empty() == (here.state == VerbsState::kReady));
  if (here.state == VerbsState::kBuiltWithout || here.state == VerbsState::kLibraryAbsent) return;

  const auto noLibrary = verbsCapabilities("libno-such-thing.so.1");
  CHECK(noLibrary.state == VerbsState::kLibraryAbsent);
  CHECK(noLibrary.detail.find("libno-such-thing.so.1") != std::string::npos);
  const auto noSymbol = verbsCapabilities("libc.so.6");
  CHECK(noSymbol.state == VerbsState::kSymbolMissing);
  CHECK(noSymbol.detail.find("ibv_get_device_list@IBVERBS_1.1") != std::string::npos);

  const Folder sys;
  const auto noKernel = verbsCapabilities(nullptr, sys.path());
  CHECK(noKernel.state == VerbsState::kKernelSupportAbsent);
  sys.write("class/infiniband_verbs/abi_version", "6");
  const auto noDevice = verbsCapabilities(nullptr, sys.path());
  CHECK(noDevice.state == VerbsState::kNoDevice);
  CHECK_FALSE(noDevice.detail.empty());
}

TEST_CASE("verbs: without a usable device, opening says why") {
  if (verbsCapabilities().state == VerbsState::kReady) return;
  const auto opened = Device::openAll({});
  REQUIRE_FALSE(opened.ok());
  CHECK(opened.error().is("WALSHIP_ERR_RDMA_UNAVAILABLE"));
  CHECK(opened.error().message.find(verbsCapabilities().detail) != std::string::npos);
}

TEST_CASE("verbs: the GID table is read from sysfs") {
  const Folder sys;
  const std::string port = "class/infiniband/rxe7/ports/1/";
  sys.write(port + "gids/0", "fe80:0000:0000:0000:0202:c9ff:fe00:0001");
  sys.write(port + "gids/10", "0000:0000:0000:0000:0000:ffff:0a4d:0001");
  sys.write(port + "gids/2", "0000:0000:0000:0000:0000:0000:0000:0000");
  sys.write(port + "gids/3", "nonsense");
  sys.write(port + "gid_attrs/types/10", "RoCE v2");
  sys.write(port + "gid_attrs/ndevs/10", "eth0");
  const auto gids = listGids(sys.path(), "rxe7", 1);
  REQUIRE(gids.size() == 2);
  CHECK(gids[0].index == 0);
  CHECK(gids[0].address == "fe80::202:c9ff:fe00:1");
  CHECK(gids[0].type.empty());
  CHECK(gids[1].index == 10);
  CHECK(gids[1].address == "10.77.0.1");
  CHECK(gids[1].type == "RoCE v2");
  CHECK(gids[1].netdev == "eth0");
  CHECK(listGids(sys.path(), "rxe8", 1).empty());
}

TEST_CASE("verbs: a rail is chosen") {
  const auto found = twoDevices();
  VerbsSettings settings;
  const auto choose = [&] { return chooseRails(found, settings); };
  const auto check = [&](const std::string& device, int port, int gid, uint32_t mtu) {
    const auto choice = choose();
    REQUIRE_MESSAGE(choice.ok(), choice.error().message);
    CHECK(choice.value().front().device == device);
    CHECK(choice.value().front().port == port);
    CHECK(choice.value().front().gid.index == gid);
    CHECK(choice.value().front().mtuBytes == mtu);
  };
  const auto refuse = [&](const std::string& reason) {
    const auto choice = choose();
    REQUIRE_FALSE(choice.ok());
    CHECK(choice.error().is("WALSHIP_ERR_RDMA_UNAVAILABLE"));
    CHECK_MESSAGE(choice.error().message.find(reason) != std::string::npos, choice.error().message);
  };
  check("mlx5_0", 1, 3, 1024);
  settings.addresses = {"10.0.1.1"};
  check("mlx5_0", 1, 5, 1024);
  settings.addresses = {"2001:db8:0::1"};
  check("mlx5_0", 1, 2, 1024);
  settings.addresses = {"10.0.2.1"};
  check("mlx5_1", 1, 0, 4096);
  settings.pathMtuBytes = 2048;
  check("mlx5_1", 1, 0, 2048);
  settings.addresses = {"10.0.0.9"};
  refuse("mlx5_0 port 1 has no RoCE v2 GID with a network device for 10.0.0.9");
  settings = {};
  settings.gidIndex = 1;
  check("mlx5_0", 1, 1, 1024);
  settings.pathMtuBytes = 4096;
  check("mlx5_0", 1, 1, 1024);
  settings.gidIndex = 0;
  check("mlx5_1", 1, 0, 4096);
  settings.device = "mlx5_0";
  refuse("at index 0");
  settings = {};
  settings.device = "mlx5_1";
  settings.port = 2;
  refuse("mlx5_1 port 2 is DOWN");
  settings.port = 3;
  refuse("mlx5_1 has no port 3");
  settings = {};
  settings.device = "mlx5_2";
  refuse("mlx5_2: cannot open it: no");
  settings.device = "mlx5_9";
  refuse("mlx5_9 is not there");
}

TEST_CASE("verbs: settings are held to their bounds") {
  const auto refused = [](auto change, const std::string& name) {
    VerbsSettings settings;
    change(settings);
    const auto valid = validate(settings);
    REQUIRE_FALSE_MESSAGE(valid.ok(), name);
    CHECK(valid.error().is("WALSHIP_ERR_SETTING_INVALID"));
    CHECK_MESSAGE(valid.error().message.find("verbs." + name) != std::string::npos, valid.error().message);
  };
  CHECK(validate({}).ok());
  refused([](auto& s) { s.retryCount = 7; }, "retryCount");
  refused([](auto& s) { s.retryCount = 0; }, "retryCount");
  refused([](auto& s) { s.rnrRetry = 7; }, "rnrRetry");
  refused([](auto& s) { s.ackTimeoutExponent = 0; }, "ackTimeoutExponent");
  refused([](auto& s) { s.ackTimeoutExponent = 21; }, "ackTimeoutExponent");
  refused([](auto& s) { s.queueDepth = 12; }, "queueDepth");
  refused([](auto& s) { s.queueDepth = 16388; }, "queueDepth");
  refused([](auto& s) { s.queueDepth = 66; }, "queueDepth");
  refused([](auto& s) { s.inlineBytes = 1025; }, "inlineBytes");
  refused([](auto& s) { s.pathMtuBytes = 1500; }, "pathMtuBytes");
  refused([](auto& s) { s.pathMtuBytes = 128; }, "pathMtuBytes");
  refused([](auto& s) { s.pathMtuBytes = 8192; }, "pathMtuBytes");
  refused([](auto& s) { s.port = 256; }, "port");
  refused([](auto& s) { s.gidIndex = 256; }, "gidIndex");
  refused([](auto& s) { s.serviceLevel = 8; }, "serviceLevel");
  refused([](auto& s) { s.trafficClass = 256; }, "trafficClass");
  refused([](auto& s) { s.addresses = {"10.0.0"}; }, "address");
  CHECK(textOf(*gidOfAddress("10.77.0.1")) == "10.77.0.1");
  CHECK(textOf(*gidOfAddress("2001:DB8::7")) == "2001:db8::7");
}

TEST_CASE("verbs: an endpoint survives the wire and a damaged one does not") {
  Endpoint endpoint;
  endpoint.gid = *gidOfAddress("10.77.0.1");
  endpoint.queuePair = 0x123456;
  endpoint.packetSequence = 0xabcdef;
  endpoint.pathMtuBytes = 4096;
  endpoint.receiveDepth = 512;
  endpoint.lid = 7;
  const Buffer body = encodeEndpoint(endpoint);
  const auto parsed = parseEndpoint(body);
  REQUIRE(parsed.ok());
  CHECK(parsed.value().gid == endpoint.gid);
  CHECK(parsed.value().queuePair == endpoint.queuePair);
  CHECK(parsed.value().packetSequence == endpoint.packetSequence);
  CHECK(parsed.value().pathMtuBytes == endpoint.pathMtuBytes);
  CHECK(parsed.value().receiveDepth == endpoint.receiveDepth);
  CHECK(parsed.value().lid == endpoint.lid);

  for (size_t length = 0; length < body.size(); ++length)
    CHECK_FALSE(parseEndpoint(Bytes(body).first(length)).ok());
  const auto refused = [&](auto change) {
    Endpoint bad = endpoint;
    change(bad);
    const auto result = parseEndpoint(encodeEndpoint(bad));
    REQUIRE_FALSE(result.ok());
    CHECK(result.error().is("WALSHIP_ERR_LINK_PROTOCOL"));
  };
  refused([](Endpoint& e) { e.gid = {}; });
  refused([](Endpoint& e) { e.queuePair = 1; });
  refused([](Endpoint& e) { e.queuePair = 0xffffff; });
  refused([](Endpoint& e) { e.packetSequence = 0x1000000; });
  refused([](Endpoint& e) { e.pathMtuBytes = 0; });
  refused([](Endpoint& e) { e.pathMtuBytes = 1500; });
  refused([](Endpoint& e) { e.pathMtuBytes = 8192; });
  refused([](Endpoint& e) { e.receiveDepth = 12; });
  refused([](Endpoint& e) { e.receiveDepth = 18; });
  refused([](Endpoint& e) { e.receiveDepth = 1u << 20; });
}

TEST_CASE("verbs: a record's header is checked") {
  const Buffer record = makeRecord(RecordKind::kReady, {});
  REQUIRE(parseRecordHeader(record).ok());
  for (size_t at = 0; at < record.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      Buffer damaged = record;
      damaged[at] ^= static_cast<std::byte>(1 << bit);
      const auto parsed = parseRecordHeader(damaged);
      // Another kind, or a body of reasonable length, is a header like any other.
      if (parsed.ok()) CHECK((at == 6 || (at >= 8 && at < 12)));
      if (parsed.ok()) CHECK(parsed.value().bodyBytes <= kRecordBodyMax);
    }
  }
  CHECK(parseFailure(std::as_bytes(std::span("a\x1b[31mb\n", 8))) == "a?[31mb?");
}

TEST_CASE("verbs: random bytes do no harm to the parsers") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20000; ++round) {
    Buffer bytes(random() % 64);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random() % (round % 2 == 0 ? 256 : 4));
    if (const auto header = parseMessage(bytes)) CHECK(header->length + sizeof *header == bytes.size());
    if (const auto endpoint = parseEndpoint(bytes); endpoint.ok()) CHECK(endpoint.value().receiveDepth >= 16);
    static_cast<void>(parseRecordHeader(bytes));
    const auto value = static_cast<uint32_t>(random());
    CHECK(Immediate::parse(value).pack() == value);
  }
}

namespace {

// Two ends, wires that keep order, and a schedule that is as unfriendly as chance allows.
struct CreditEnd {
  CreditEnd(uint32_t own, uint32_t peer) : credits(own, peer) {}
  Credits credits;
  std::deque<uint16_t> wire;  // what the peer sent and this end has not taken: credits given back with each
  uint64_t sent = 0;
  uint64_t creditMessages = 0;

  bool send(CreditEnd& to, bool creditsAlone) {
    if (creditsAlone ? !credits.mayReturn() : !credits.maySend()) return false;
    credits.spend();
    to.wire.push_back(credits.takeOwed());
    ++(creditsAlone ? creditMessages : sent);
    return true;
  }
  // As VerbsLink::poll(): a batch, posted again, then credits if nothing else will take them along.
  void take(CreditEnd& from, size_t most) {
    const size_t count = std::min(most, wire.size());
    for (size_t i = 0; i < count; ++i) {
      REQUIRE(credits.regain(wire.front()));
      wire.pop_front();
    }
    credits.posted(static_cast<uint32_t>(count));
    // Due and impossible would be the deadlock that the reserve excludes.
    if (credits.returnDue()) REQUIRE(send(from, true));
  }
};

}  // namespace

TEST_CASE("verbs: credits neither run dry nor overrun the receiver, whatever the schedule") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    const uint32_t depths[] = {16, 16, 20, 64, 512};
    const uint32_t left = depths[random() % 5];
    const uint32_t right = depths[random() % 5];
    CreditEnd a(left, right);
    CreditEnd b(right, left);
    const uint64_t sendA = random() % 101;  // how eager each end is, in percent
    const uint64_t sendB = random() % 101;
    const uint64_t takeA = random() % 100 + 1;
    const uint64_t takeB = random() % 100 + 1;
    for (int step = 0; step < 3000; ++step) {
      if (random() % 100 < sendA)
        while (random() % 8 != 0 && a.send(b, false)) {
        }
      if (random() % 100 < sendB)
        while (random() % 8 != 0 && b.send(a, false)) {
        }
      if (random() % 100 < takeA) a.take(b, random() % 33);
      if (random() % 100 < takeB) b.take(a, random() % 33);
      REQUIRE(a.wire.size() <= left);
      REQUIRE(b.wire.size() <= right);
    }
    // Everything taken: both can send again, and the credit messages die out.
    for (int step = 0; step < 1000 && !(a.wire.empty() && b.wire.empty()); ++step) {
      a.take(b, 32);
      b.take(a, 32);
    }
    CHECK(a.wire.empty());
    CHECK(b.wire.empty());
    CHECK(a.credits.maySend());
    CHECK(b.credits.maySend());
    CHECK(a.creditMessages <= (b.sent + b.creditMessages) / (left / 4));
  }
}

TEST_CASE("verbs: a peer that gives back more than it got is found out") {
  Credits credits(16, 16);
  CHECK_FALSE(credits.regain(1));
  credits.spend();
  CHECK_FALSE(credits.regain(2));
  CHECK(credits.regain(1));
  CHECK_FALSE(credits.regain(65535));
}

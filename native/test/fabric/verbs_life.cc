// The life of links over rxe devices of the lab: many at once, a thousand one after the other, and their end.
#include <dirent.h>

#include <algorithm>
#include <fstream>

#include "test/fabric/verbs_lab.h"
#include "test/sanitized.h"

using namespace walship;
using namespace walship::lab;

namespace {

size_t openFds() {
  size_t count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

size_t residentBytes() {
  std::ifstream file("/proc/self/statm");
  size_t total = 0;
  size_t resident = 0;
  file >> total >> resident;
  return resident * 4096;
}

// The kernel's own count of verbs objects.
std::string verbsObjects() {
  std::string text;
  FILE* pipe = ::popen("rdma resource show", "r");
  REQUIRE(pipe != nullptr);
  char line[256];
  while (std::fgets(line, sizeof line, pipe) != nullptr) text += line;
  REQUIRE(::pclose(pipe) == 0);
  return text;
}

}  // namespace

TEST_CASE("verbs lab: sixteen links over one device") {
  if (absent()) return;
  Host a(settingsFor(0));
  Host b(settingsFor(1));
  constexpr size_t kLinks = 16;
  std::vector<std::unique_ptr<Link>> ups;
  std::vector<std::unique_ptr<Link>> downs;
  std::vector<std::unique_ptr<Recorder>> recorders;
  const auto watched = [&](Connected& link) {
    REQUIRE_MESSAGE(link.ok(), link.error().message);
    recorders.push_back(std::make_unique<Recorder>());
    link.value()->setHandler(recorders.back().get());
    return link.take();
  };
  for (size_t i = 0; i < kLinks; ++i) {
    auto [first, second] = connectBoth(a, b);
    ups.push_back(watched(first));
    downs.push_back(watched(second));
  }
  fillRandom(a.arena.bytes(), 16);
  const uint32_t pageBytes = 256u << 10;
  for (size_t i = 0; i < kLinks; ++i) {
    const RemotePage remote = downs[i]->expect(1, b.arena.at(i * pageBytes), 0, pageBytes);
    REQUIRE(ups[i]->ship({a.arena.at(i * pageBytes), pageBytes}, 1, remote, 0));
    ups[i]->flush();
  }
  size_t landed = 0;
  for (const uint64_t deadline = inMs(20'000); landed < kLinks && monotonicNs() < deadline;) {
    landed = 0;
    for (size_t i = 0; i < kLinks; ++i) {
      ups[i]->poll();
      downs[i]->poll();
      landed += recorders[2 * i + 1]->events.size();
    }
  }
  CHECK(landed == kLinks);
  CHECK(std::equal(a.arena.at(0), a.arena.at(kLinks * pageBytes), b.arena.at(0)));
  // Each goes by itself: the others do not notice.
  ups[3].reset();
  for (int round = 0; round < 100; ++round) downs[3]->poll();
  CHECK(recorders[7]->downs <= 1);
  for (size_t i = 0; i < kLinks; ++i) {
    if (i != 3) CHECK(recorders[2 * i + 1]->downs == 0);
  }
}

TEST_CASE("verbs lab: a thousand connects and disconnects leave nothing behind") {
  if (absent()) return;
  VerbsSettings left = settingsFor(0);
  VerbsSettings right = settingsFor(1);
  left.queueDepth = right.queueDepth = 32;  // nearly all the time goes into pinning buffers
  Host a(left, 1u << 20);
  Host b(right, 1u << 20);
  const auto once = [&] {
    auto [first, second] = connectBoth(a, b);
    REQUIRE_MESSAGE(first.ok(), first.error().message);
    REQUIRE_MESSAGE(second.ok(), second.error().message);
    Recorder recorder;
    second.value()->setHandler(&recorder);
    REQUIRE(first.value()->send(bytesOfText("hello")));
    first.value()->flush();
    for (const uint64_t deadline = inMs(5000); recorder.events.empty() && monotonicNs() < deadline;) {
      second.value()->poll();
    }
    REQUIRE(recorder.events.size() == 1);
  };
  for (int warm = 0; warm < 20; ++warm) once();
  const size_t fds = openFds();
  const size_t memory = residentBytes();
  const std::string objects = verbsObjects();
  const uint64_t begin = monotonicNs();
  for (int round = 0; round < 1000; ++round) once();
  MESSAGE("1000 connects: ", (monotonicNs() - begin) / kMs, " ms; resident ", memory >> 10, " KiB before, ",
          residentBytes() >> 10, " KiB after");
  CHECK(openFds() == fds);
  CHECK(verbsObjects() == objects);
  // A sanitizer keeps freed memory for a while, and looks for leaks itself.
  if (!test::kSanitized) CHECK(residentBytes() < memory + (4u << 20));
}

TEST_CASE("verbs lab: the end of a link is a fence") {
  if (absent()) return;
  const uint32_t pageBytes = 4u << 20;
  for (int round = 0; round < 10; ++round) {
    Pair pair(64);
    std::fill(pair.a->arena.bytes().begin(), pair.a->arena.bytes().end(), std::byte{0x11});
    for (uint32_t grant = 1; grant <= 3; ++grant) {
      std::byte* page = pair.b->arena.at((grant - 1) * pageBytes);
      const RemotePage remote = pair.downstream->expect(grant, page, 0, pageBytes);
      for (uint32_t offset = 0; offset < pageBytes; offset += 512u << 10) {
        REQUIRE(pair.up->ship({pair.a->arena.at(offset), 512u << 10}, grant, remote, offset));
      }
    }
    pair.up->flush();
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * round));
    uint64_t begin = monotonicNs();
    pair.downstream.reset();
    CHECK(monotonicNs() - begin < 2000 * kMs);
    std::fill(pair.b->arena.bytes().begin(), pair.b->arena.bytes().end(), std::byte{0x22});
    // The upstream learns it and goes with work in flight as well.
    REQUIRE(pair.pump([&] { return pair.atUp.downs > 0; }));
    CHECK(pair.atUp.down.is("WALSHIP_ERR_LINK_CLOSED"));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    CHECK(std::all_of(pair.b->arena.bytes().begin(), pair.b->arena.bytes().end(),
                      [](std::byte byte) { return byte == std::byte{0x22}; }));
    begin = monotonicNs();
    pair.up.reset();
    CHECK(monotonicNs() - begin < 2000 * kMs);
  }
}

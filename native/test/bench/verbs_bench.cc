// The verbs link against perftest, on the same two devices, in the same run, turn by turn:
//   scripts/softroce run --nodes 2 -- build/native/verbs_bench [SECONDS] [ROUNDS]
// Throughput: 64 KiB ranges, 64 in flight, acknowledged whenever the receiver wakes, against ib_write_bw.
// Round trip: a 64 B range and the 64 B message that acknowledges it, against twice what ib_write_lat and
// ib_send_lat -e print, which is half a round trip.
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/histogram.h"
#include "fabric/socket.h"
#include "fabric/verbs/connect.h"

using namespace walship;

namespace {

constexpr uint32_t kPageBytes = 256u << 10;
constexpr uint32_t kArenaPages = 64;
constexpr uint32_t kAckBytes = 64;

struct Node {
  std::string device;
  std::string address;
};

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "verbs-bench: %s\n", what.c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result.ok()) die(result.error().message);
  return result.take();
}

std::vector<Node> nodes() {
  std::vector<Node> found;
  const char* text = std::getenv("WALSHIP_LAB_DEVICES");
  std::istringstream list(text != nullptr ? text : "");
  for (std::string one; std::getline(list, one, ',');) {
    const size_t colon = one.find(':');
    if (colon != std::string::npos) found.push_back({one.substr(0, colon), one.substr(colon + 1)});
  }
  if (found.size() < 2)
    die("WALSHIP_LAB_DEVICES names no two devices: run it in scripts/softroce run --nodes 2");
  return found;
}

// The figure in column `column` of the one row of numbers that a perftest client prints.
double perftest(const std::string& tool, size_t column) {
  const auto list = nodes();
  const auto line = [&](size_t node) { return tool + " -F -x 1 -d " + list[node].device; };
  const std::string command = std::string("(").append(line(1)) +
                              " >/dev/null 2>&1 &) ; sleep 1; timeout 60 " + line(0) + " " + list[1].address +
                              " 2>/dev/null";
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) die("cannot run " + tool);
  double figure = 0;
  char text[512];
  while (std::fgets(text, sizeof text, pipe) != nullptr) {
    std::istringstream row(text);
    std::vector<double> numbers;
    for (double number = 0; row >> number;) numbers.push_back(number);
    if (numbers.size() > column) figure = numbers[column];
  }
  ::pclose(pipe);
  if (figure <= 0) die("no figure from " + command);
  return figure;
}

struct End {
  explicit End(const Node& node) {
    void* memory = ::mmap(nullptr, size_t{kArenaPages} * kPageBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) die("no memory");
    arena = {static_cast<std::byte*>(memory), size_t{kArenaPages} * kPageBytes};
    VerbsSettings settings;
    settings.device = node.device;
    settings.addresses = {node.address};
    device = must(Device::openAll(settings)).front();
    if (auto registered = device->registerArena(arena); !registered.ok()) die(registered.error().message);
  }
  std::byte* page(uint32_t grant) const { return arena.data() + size_t{grant % kArenaPages} * kPageBytes; }

  MutableBytes arena;
  std::shared_ptr<Device> device;
};

// Counts what comes in; the receiver also acknowledges every range once per batch.
struct Counter : LinkHandler {
  void onLanded(uint32_t, uint32_t length) override {
    landedBytes += length;
    ackDue = true;
  }
  void onMessage(Bytes) override { ++messages; }
  void onShipped(uint64_t) override {}
  void onDown(const Error& error) override { die(error.message); }
  uint64_t landedBytes = 0;
  uint64_t messages = 0;
  bool ackDue = false;
};

// One look at the link; with `events`, after sleeping until it has news.
void await(Link& link, bool events) {
  if (link.poll() || !events) return;
  if (link.arm()) {
    pollfd waiting[3];
    const auto fds = link.fds();
    for (size_t i = 0; i < 3; ++i) waiting[i] = {fds[i], POLLIN, 0};
    ::poll(waiting, 3, 100);
  }
  link.poll();
}

class Bench {
 public:
  explicit Bench(uint64_t ns) : ns_(ns), up_(nodes()[0]), down_(nodes()[1]) {}

  struct Figures {
    double megabytesPerSecond = 0;
    double roundTripUs = 0;  // p50
  };

  // Ships ranges of `bytes`; `inFlight`: how many may be unacknowledged.
  Figures run(uint32_t bytes, uint64_t inFlight, bool events) {
    connect();
    constexpr uint32_t kGrants = 16384;
    std::vector<RemotePage> remote(1);  // by grant, which are counted from 1
    for (uint32_t grant = 1; grant <= kGrants; ++grant)
      remote.push_back(downLink_->expect(grant, down_.page(grant), 0, kPageBytes));
    std::atomic<bool> stop{false};
    std::thread receiver([&] {
      Counter counter;
      downLink_->setHandler(&counter);
      std::vector<std::byte> ack(kAckBytes);
      uint64_t acked = 0;
      while (!stop) {
        await(*downLink_, events);
        if (!counter.ackDue) continue;
        acked = counter.landedBytes;
        std::memcpy(ack.data(), &acked, sizeof acked);
        if (downLink_->send(ack)) counter.ackDue = false;
        downLink_->flush();
      }
    });
    struct Sender : Counter {
      void onMessage(Bytes message) override {
        ++messages;
        acknowledged = loadAt<uint64_t>(message, 0);
      }
      uint64_t acknowledged = 0;
    } sender;
    upLink_->setHandler(&sender);
    Histogram roundTrips;
    const uint32_t perPage = kPageBytes / bytes;
    uint64_t shipped = 0;
    const uint64_t begin = monotonicNs();
    uint64_t last = begin;
    while (monotonicNs() - begin < ns_ || sender.acknowledged < shipped * bytes) {
      const bool more = monotonicNs() - begin < ns_;
      while (more && shipped * bytes - sender.acknowledged < inFlight * bytes) {
        const auto grant = static_cast<uint32_t>(shipped / perPage + 1);
        if (grant > kGrants) die("the run is longer than its grants");
        const auto offset = static_cast<uint32_t>(shipped % perPage) * bytes;
        if (!upLink_->ship({up_.page(grant) + offset, bytes}, grant, remote[grant], offset))
          break;
        ++shipped;
      }
      upLink_->flush();
      const uint64_t before = sender.messages;
      await(*upLink_, events);
      if (inFlight == 1 && sender.messages != before) {
        const uint64_t now = monotonicNs();
        roundTrips.record(now - last);
        last = now;
      }
    }
    const uint64_t took = monotonicNs() - begin;
    stop = true;
    receiver.join();
    upLink_.reset();
    downLink_.reset();
    return {static_cast<double>(shipped * bytes) / 1e6 / (static_cast<double>(took) / 1e9),
            static_cast<double>(roundTrips.quantile(0.5)) / 1e3};
  }

 private:
  void connect() {
    Fd listener = must(listenTcp({"127.0.0.1", 0}));
    const uint64_t deadline = monotonicNs() + 10'000'000'000;
    Fd one = must(connectTcp({"127.0.0.1", localPort(listener.get())}, "", deadline));
    pollfd waiting{listener.get(), POLLIN, 0};
    ::poll(&waiting, 1, 1000);
    Fd other(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    std::thread thread([&] { downLink_ = must(connectVerbs(down_.device, std::move(other), deadline)); });
    upLink_ = must(connectVerbs(up_.device, std::move(one), deadline));
    thread.join();
  }

  uint64_t ns_;
  End up_;
  End down_;
  std::unique_ptr<Link> upLink_;
  std::unique_ptr<Link> downLink_;
};

double medianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  // SECONDS: of each run of the link; ROUNDS: of which the median counts.
  const int seconds = argc > 1 ? std::atoi(argv[1]) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 5;
  Bench bench(static_cast<uint64_t>(std::max(1, seconds)) * 1'000'000'000);
  struct Case {
    const char* name;
    const char* unit;
    double bound;
    std::function<double()> own;
    std::function<double()> limit;
  };
  const Case cases[] = {
      {"throughput 64 KiB, events", "MB/s", 0.9,
       [&] { return bench.run(65536, 64, true).megabytesPerSecond; },
       [&] { return perftest("ib_write_bw -s 65536 -n 1500", 3) * 1.048576; }},
      {"round trip 64 B, polling", "us", 1.5, [&] { return bench.run(64, 1, false).roundTripUs; },
       [&] { return perftest("ib_write_lat -s 64 -n 2000", 4) * 2; }},
      {"round trip 64 B, events", "us", 1.5, [&] { return bench.run(64, 1, true).roundTripUs; },
       [&] { return perftest("ib_send_lat -e -s 64 -n 2000", 4) * 2; }},
  };
  std::printf("%-28s %10s %10s %7s %7s\n", "case", "walship", "perftest", "ratio", "bound");
  for (const Case& one : cases) {
    std::vector<double> own;
    std::vector<double> limit;
    for (int round = 0; round < std::max(1, rounds); ++round) {
      own.push_back(one.own());
      limit.push_back(one.limit());
    }
    std::printf("%-28s %10.1f %10.1f %7.2f %s%6.2f   %s\n", one.name, medianOf(own), medianOf(limit),
                medianOf(own) / medianOf(limit), one.bound < 1 ? ">" : "<", one.bound, one.unit);
    std::fflush(stdout);
  }
  return 0;
}

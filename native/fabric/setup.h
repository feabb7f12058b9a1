// Setting links up, apart from the hot path: threads of their own accept and connect, authenticate, choose the
// transport, and hand finished links over. Everything here may block, up to a deadline.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "fabric/handshake.h"
#include "fabric/link.h"
#include "fabric/socket.h"
#include "fabric/verbs/device.h"

namespace walship {

struct SetupSettings {
  Identity identity;                 // identity.transports: what this node is willing to use
  std::vector<std::shared_ptr<Device>> devices;  // none: TCP only
  uint32_t setupTimeoutMs = 3000;
  uint32_t reconnectMsMin = 50;      // back-off of the connector: doubles up to the maximum, ± 25 %
  uint32_t reconnectMsMax = 2000;
};

struct Established {
  std::unique_ptr<Link> link;
  std::string node;  // the peer's id
  // Of the side that connected: the rail's name, "tcp@10.0.0.2:7400" or "verbs:rxe0@10.0.0.2:7400": transport, device here,
  // address of the peer.
  std::string rail;
};

class Listener {
 public:
  using OnLink = std::function<void(Established)>;
  using OnError = std::function<void(const std::string& from, const Error&)>;
  // Both callbacks come from set-up threads. At most kPendingMax hand-shakes are under way; more connections wait in the
  // kernel's queue, and the caller that has taken longest to prove itself makes room for them: silent strangers must not
  // keep a node out. Error: WALSHIP_ERR_LISTEN.
  static Result<std::unique_ptr<Listener>> start(const Address& address, SetupSettings settings, OnLink onLink,
                                                 OnError onError);
  ~Listener();
  uint16_t port() const { return port_; }

 private:
  static constexpr int kPendingMax = 16;
  Listener(Fd socket, Fd wake, SetupSettings settings, OnLink onLink, OnError onError);
  void accept();
  bool makeRoom();  // false: stopping
  void establish(Fd connection);

  Fd socket_;
  Fd wake_;
  SetupSettings settings_;
  OnLink onLink_;
  OnError onError_;
  uint16_t port_;
  std::mutex mutex_;
  std::condition_variable pendingMoved_;
  int pending_ = 0;
  struct Caller {
    int fd;
    uint64_t sinceNs;
    bool dropped;
  };
  std::deque<Caller> authenticating_;  // oldest first; shut down by the destructor, which need not wait for their deadline
  bool stopping_ = false;
  std::thread thread_;
};

struct ConnectTarget {
  Address address;
  std::string node;    // expected id; empty for any
  std::string source;  // local address to connect from; empty for any
  uint8_t transports = 0;  // of the identity's; 0: all of them
  std::string device;      // RDMA device to use; empty: the one with the local address of the connection, or the first
  bool operator==(const ConnectTarget&) const = default;
};

// Keeps trying until it has a link, then rests until asked for another.
class Connector {
 public:
  using OnLink = std::function<void(Established)>;
  using OnError = std::function<void(const Error&)>;
  Connector(SetupSettings settings, OnLink onLink, OnError onError);
  ~Connector();
  // A new target (or none: stop connecting). A link set up for an older target is not handed over.
  void follow(std::optional<ConnectTarget> target);
  // Whether `target` is the one followed. If its link is not up, the next try is made at once.
  bool retryIfFollowing(const ConnectTarget& target);
  // Gives up the try under way, and begins it anew.
  void restart();
  // The link handed over is gone: connect again. `soon`: at once, as it was a good link; else the back-off goes on.
  void reconnect(bool soon);

 private:
  void run();
  void cancelTry();  // these with mutex_ held
  void tryAtOnce();

  SetupSettings settings_;
  OnLink onLink_;
  OnError onError_;
  std::mutex mutex_;
  std::condition_variable moved_;
  std::optional<ConnectTarget> target_;
  uint64_t generation_ = 0;  // grows when a try under way has become useless
  bool wanted_ = false;
  bool atOnce_ = false;  // the next try waits for no back-off
  bool stopping_ = false;
  std::atomic<bool> cancelled_{false};  // the try under way is of no use any more
  Fd underWay_;  // a copy of the descriptor of the try under way, to shut it down by
  uint32_t backoffMs_;
  std::thread thread_;
};

}  // namespace walship

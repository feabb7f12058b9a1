// One client of the walsender: start-up, authentication, commands, the stream.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <set>

#include "databases/postgres/channel.h"
#include "databases/postgres/command.h"
#include "databases/postgres/connection.h"
#include "databases/postgres/protocol.h"
#include "databases/postgres/scram.h"
#include "databases/postgres/sender_settings.h"
#include "databases/postgres/stream.h"
#include "databases/postgres/timelines.h"
#include "databases/postgres/wal_cursor.h"

namespace walship::postgres {

// What the sessions share.
struct SenderShared {
  std::map<std::string, ScramVerifier> roles;
  ScramKey mockSecret{};                     // what the verifiers of unknown roles are made of
  std::optional<TlsContext> tls;
  std::atomic<uint32_t> walsenders{0};
  std::atomic<uint32_t> ordinary{0};
  std::atomic<uint32_t> backups{0};          // under way
  std::atomic<uint64_t> refused{0};
  std::mutex appliedMutex;
  std::map<const void*, uint64_t> applied;  // by session
  std::mutex horizonMutex;
  std::map<const void*, Horizon> horizons;   // by session
};

constexpr uint32_t kWalsendersMax = 64;

// One of a bounded number of places, as long as it lives.
class Seat {
 public:
  // false: all are taken.
  bool take(std::atomic<uint32_t>& taken, uint32_t most) {
    if (taken.fetch_add(1) >= most) {
      taken.fetch_sub(1);
      return false;
    }
    taken_ = &taken;
    return true;
  }
  Seat() = default;
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;
  ~Seat() {
    if (taken_ != nullptr) taken_->fetch_sub(1);
  }

 private:
  std::atomic<uint32_t>* taken_ = nullptr;
};

class Session final {
 public:
  // `cancel` is raised for good before stop(). `remote`: who connects proves it by password; else the kernel says who it is.
  Session(Engine& engine, const SenderSettings& settings, SenderShared& shared, const Wakeup& cancel, Fd socket, bool remote,
          Wakeup wake)
      : engine_(engine),
        settings_(settings),
        shared_(shared),
        cancel_(cancel),
        remote_(remote),
        channel_(std::move(socket)),
        wake_(std::move(wake)),
        cursor_(engine) {}
  ~Session();

  void run();
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  // From any thread.
  void stop();
  void positionsMoved();
  SessionStatus status();

 private:
  struct Message {
    char type = 0;
    std::vector<std::byte> body;
  };
  using Outcome = Result<void>;  // an error ends the session

  Outcome serve();
  Result<bool> startUp();
  Result<bool> begin(const Startup& startup);
  Result<std::vector<std::byte>> readStartup();
  Outcome authenticate(const std::string& user);
  Outcome provePassword(const std::string& user);
  Result<std::string> peerUser();
  bool encryptable() const { return remote_ && shared_.tls && !channel_.encrypted(); }
  Result<Message> readMessage();
  Result<std::optional<Message>> tryMessage();
  Outcome fill(bool wait);
  Outcome flush();
  bool unsent() const { return outSent_ < out_.size() || channel_.unsent(); }
  Result<bool> trySend();
  Outcome fatal(const char* sqlState, const std::string& message, const std::string& hint = {});
  void refuse(const char* sqlState, const std::string& message, const std::string& detail = {},
              const std::string& hint = {});

  Outcome run(const std::string& text);
  Outcome run(const Nothing& command);
  Outcome run(const IdentifySystem& command);
  Outcome run(const Show& command);
  Outcome run(const TimelineHistory& command);
  Outcome run(const StartReplication& command);
  Outcome run(const CreateSlot& command);
  Outcome run(const ReadSlot& command);
  Outcome run(const DropSlot& command);
  Outcome run(const BaseBackup& command);
  Outcome run(const ForServer& command);

  // What goes to the server beside the node.
  Outcome splice(const Startup& startup, Bytes packet);
  Outcome passOnCancel(Bytes packet);
  Result<Fd> connectOrdinary();
  Result<Connection> connectServer();
  Result<void> fetchHistory(uint32_t timeline);
  Outcome relay(int server, Buffer toServer, AnswerBounds* answer);

  uint64_t sendable() const;
  Result<uint64_t> sendableAt(uint64_t lsn);
  Result<WalIdentity> identity();
  std::optional<uint64_t> slotLsn(const std::string& slot) const;
  // To the end of the timeline, if it has one, or until the client has had enough.
  Outcome stream(uint64_t start);
  Outcome endOfTimeline();
  Result<bool> lookForSwitch();
  Result<bool> sendWal();
  Outcome takeReply(const Message& message);
  void sendKeepAlive(bool replyWanted);
  void setApplied(uint64_t lsn);
  void setHorizon(const Horizon& horizon);
  Outcome sleep(uint64_t timeoutNs);
  // For how long what is sendable is left to gather, 0: not at all: every piece of WAL costs a server several wake-ups and a
  // sync.
  uint64_t gatherNs(uint64_t nowNs) const;

  Engine& engine_;
  const SenderSettings& settings_;
  SenderShared& shared_;
  const Wakeup& cancel_;
  const bool remote_;
  Channel channel_;
  Wakeup wake_;
  WalCursor cursor_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> gathering_{false};  // asleep until WAL may go out again, or a commit waits for what is applied
  std::atomic<uint64_t> looked_{0};  // what was sendable when it was last looked at, before sleeping_ was set
  std::atomic<bool> ended_{false};

  std::vector<std::byte> in_;  // read and not taken
  size_t inTaken_ = 0;
  Buffer out_;                 // not yet sent
  size_t outSent_ = 0;
  bool answered_ = false;      // the server has said ReadyForQuery itself
  uint64_t startUpByNs_ = 0;   // 0: it has started up
  Seat seat_;
  std::optional<WalIdentity> identity_;
  std::set<std::string> temporarySlots_;
  std::string slot_;           // registered: holds the log
  uint64_t next_ = 0;          // LSN to be sent
  uint64_t cuts_ = 0;
  uint32_t timeline_ = 0;      // that is being served
  uint64_t epochMax_ = 0;      // frames of a newer epoch may begin a timeline
  std::optional<TimelineStart> following_;  // the timeline after it
  uint64_t heardNs_ = 0;
  uint64_t walSentNs_ = 0;

  std::mutex statusMutex_;
  SessionStatus status_;
};

}  // namespace walship::postgres

// One client of the walsender: start-up, authentication, commands, the stream.
#pragma once

#include <atomic>
#include <map>
#include <mutex>

#include "databases/postgres/command.h"
#include "databases/postgres/connection.h"
#include "databases/postgres/protocol.h"
#include "databases/postgres/stream.h"
#include "databases/postgres/timelines.h"
#include "databases/postgres/wal_cursor.h"

namespace walship::postgres {

enum class SendAt : uint8_t { received, flushed };

struct SenderSettings {
  std::string directory;               // of the socket, ".s.PGSQL.<port>" in it
  uint16_t port = 5432;
  std::vector<std::string> users;      // of the operating system, who may connect; this process's own always may
  SendAt sendAt = SendAt::flushed;     // what a standby is given: what is durable here, or what has arrived
  std::string standbyName;             // application_name whose replay position is `applied`; empty: any standby's
  uint32_t silenceMs = 60'000;         // a client that says nothing for so long is given up

  std::string socketPath() const { return directory + "/.s.PGSQL." + std::to_string(port); }
};

struct SessionStatus {
  std::string applicationName;
  std::string user;
  bool streaming = false;
  std::string slot;
  uint32_t timeline = 0;
  uint64_t sent = 0;
  uint64_t written = 0;
  uint64_t flushed = 0;
  uint64_t applied = 0;  // 0: it applies nothing
};

struct SenderStatus {
  std::string socketPath;
  std::optional<WalIdentity> identity;  // none: the log is empty
  std::vector<SessionStatus> sessions;
  uint64_t refused = 0;
  std::optional<Error> problem;         // why the log cannot be served
};

// What the sessions share.
struct SenderShared {
  std::atomic<uint64_t> refused{0};
  std::mutex appliedMutex;
  std::map<const void*, uint64_t> applied;  // by session
};

class Session final {
 public:
  Session(Engine& engine, const SenderSettings& settings, SenderShared& shared, Fd socket, Wakeup wake)
      : engine_(engine),
        settings_(settings),
        shared_(shared),
        socket_(std::move(socket)),
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
  Result<std::string> peerUser();
  Outcome authenticate();
  Result<Message> readMessage();
  Result<std::optional<Message>> tryMessage();
  Outcome fill(bool wait);
  Outcome flush();
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
  Outcome run(const ForServer& command);

  uint64_t sendable() const;
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
  Outcome sleep(uint32_t timeoutMs);

  Engine& engine_;
  const SenderSettings& settings_;
  SenderShared& shared_;
  Fd socket_;
  Wakeup wake_;
  WalCursor cursor_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> sleeping_{false};
  std::atomic<bool> ended_{false};

  std::vector<std::byte> in_;  // read and not taken
  size_t inTaken_ = 0;
  Buffer out_;                 // not yet sent
  size_t outSent_ = 0;
  std::optional<WalIdentity> identity_;
  std::string slot_;
  uint64_t next_ = 0;          // LSN to be sent
  uint64_t cuts_ = 0;
  uint32_t timeline_ = 0;      // that is being served
  uint64_t epochMax_ = 0;      // frames of a newer epoch may begin a timeline
  std::optional<TimelineStart> following_;  // the timeline after it
  uint64_t heardNs_ = 0;

  std::mutex statusMutex_;
  SessionStatus status_;
};

}  // namespace walship::postgres

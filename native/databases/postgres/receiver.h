// Primary's side: PostgreSQL's standby as far as PostgreSQL knows. Streams its WAL into the engine's log, at PostgreSQL's
// own LSNs, and reports as written, flushed and applied what the commit rule proves at the levels received, flushed and
// applied: so synchronous_commit = remote_write, on and remote_apply wait for walship's nodes.
//
// Threads: one of its own reads the stream and appends. What moved is reported from the pump's thread, at once, if that
// other is not at the connection in this instant; else by that one, right after.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "databases/postgres/connection.h"
#include "databases/postgres/stream.h"
#include "databases/postgres/timelines.h"
#include "databases/postgres/wal_records.h"

namespace walship::postgres {

struct ReceiverSettings {
  std::string conninfo;
  std::string applicationName = "walship";  // what synchronous_standby_names has to name
  std::string slot = "walship";             // made if missing: PostgreSQL keeps its WAL for it
  std::optional<uint64_t> startLsn;         // of a log that is empty; none: where the slot begins
  uint32_t connectTimeoutMs = 10'000;       // for every answer while setting up
  uint32_t reconnectMsMin = 100;
  uint32_t reconnectMsMax = 5'000;
  uint32_t statusMs = 1'000;                // a status is sent at least so often
  uint32_t silenceMs = 60'000;              // a server that says nothing for so long is given up
};

enum class ReceiverState : uint8_t { stopped, connecting, streaming };

struct ReceiverStatus {
  ReceiverState state = ReceiverState::stopped;
  uint64_t systemId = 0;
  uint32_t timeline = 0;
  int serverVersion = 0;
  uint64_t receivedLsn = 0;   // appended to the log
  uint64_t serverEndLsn = 0;  // of the WAL that the server had when it was last heard
  uint64_t written = 0;       // reported last
  uint64_t flushed = 0;
  uint64_t applied = 0;
  uint64_t bytes = 0;
  uint64_t statusesSent = 0;
  uint64_t connects = 0;
  std::optional<Error> problem;  // why it is not streaming
};

class Receiver final {
 public:
  // The engine outlives the receiver.
  static Result<std::unique_ptr<Receiver>> open(Engine& engine, ReceiverSettings settings);
  ~Receiver();  // stop()

  // Before the engine becomes primary: sees that the server is the one whose WAL the log holds, makes the slot, and has an
  // empty log begin at the start of a WAL segment. The LSN at which streaming will begin. WALSHIP_ERR_POSTGRES….
  Result<uint64_t> prepare();
  // The engine must be primary. Streams from then on, through lost connections and restarts of the server.
  Result<void> start();
  void stop();
  ReceiverStatus status();

 private:
  Receiver(Engine& engine, ReceiverSettings settings, Wakeup cancel, Wakeup wake)
      : engine_(engine), settings_(std::move(settings)), cancel_(std::move(cancel)), wake_(std::move(wake)) {}

  struct Server {
    Connection connection;
    uint64_t systemId;
    uint32_t timeline;
    uint64_t endLsn;
    uint32_t segmentBytes;
  };
  struct Start {
    uint64_t lsn;
    uint32_t timeline;
  };
  Result<Server> connect();
  Result<uint64_t> slotStart(Server& server);
  Error withRemedy(Error error) const;
  Result<Start> whereToStart(Server& server);
  Result<std::string> history(Server& server, uint32_t timeline);

  void run();
  Error session();
  Error stream(Server& server, uint32_t timeline);
  Result<Connection::Taken> drain(Connection& connection);
  Result<void> take(const WalData& data);
  Result<void> append(Bytes bytes, bool continues);
  Result<void> switchTimeline(const Row& next);
  uint64_t answerDeadline() const;

  // With connectionMutex_.
  void send(const Buffer& message);
  bool sendStatus(bool force, bool replyWanted);
  void sendFeedback(uint64_t nowNs);
  void positionsMoved();
  bool serveStatus();

  Engine& engine_;
  const ReceiverSettings settings_;
  Wakeup cancel_;  // raised for good by stop()
  Wakeup wake_;    // somebody else has left work at the connection
  uint64_t observer_ = 0;
  std::thread thread_;

  std::mutex connectionMutex_;
  Connection* live_ = nullptr;  // while streaming
  uint32_t segmentBytes_ = 0;
  bool flushDue_ = false;
  bool broken_ = false;
  std::optional<StandbyStatus> sent_;
  uint64_t sentNs_ = 0;
  std::optional<Horizon> horizonSent_;
  uint64_t horizonNs_ = 0;  // when somebody last needed something
  std::atomic<bool> statusDue_{false};

  std::optional<WalRecords> records_;
  uint64_t endLsn_ = 0;  // of the log, as far as appended here
  uint64_t unshipped_ = 0;  // bytes appended since the pump was last told
  std::atomic<bool> stopping_{false};
  std::mutex statusMutex_;
  ReceiverStatus status_;
};

}  // namespace walship::postgres

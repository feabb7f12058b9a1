// Standby's side: a walsender as PostgreSQL's walreceiver, pg_receivewal and pg_basebackup expect it, on a unix-domain
// socket and, if wanted, on TCP. It serves the engine's log, and tells the engine how far the standby has applied it.
//
// Threads: one accepts; one per session, so that a client that reads old WAL from the disk delays no other.
#pragma once

#include <list>
#include <mutex>
#include <thread>

#include "databases/postgres/session.h"

namespace walship::postgres {

class Sender final {
 public:
  // The engine outlives the sender, and has `applied` set by hand. WALSHIP_ERR_LISTEN, WALSHIP_ERR_POSTGRES_TLS,
  // WALSHIP_ERR_POSTGRES_VERIFIER.
  static Result<std::unique_ptr<Sender>> open(Engine& engine, SenderSettings settings);
  ~Sender();  // stop()
  // Ends every session.
  void stop();
  SenderStatus status();

 private:
  Sender(Engine& engine, SenderSettings settings, Wakeup cancel)
      : engine_(engine), settings_(std::move(settings)), cancel_(std::move(cancel)) {}
  Result<void> prepare();
  void run();
  void accept(const Fd& listening, bool remote);
  void reap(bool all);

  Engine& engine_;
  const SenderSettings settings_;
  Fd listening_;
  Fd listeningTcp_;  // if wanted
  Wakeup cancel_;
  SenderShared shared_;
  uint64_t observer_ = 0;

  struct Running {
    std::unique_ptr<Session> session;
    std::thread thread;
  };
  std::mutex mutex_;  // guards what follows; the pump takes it for a moment
  std::optional<WalIdentity> identity_;  // once known
  std::list<Running> sessions_;
  std::thread thread_;
};

}  // namespace walship::postgres

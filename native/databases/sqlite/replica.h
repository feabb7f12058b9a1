// One node's copy of a database: captured from while the node is primary, applied to while it is a standby.
#pragma once

#include "databases/sqlite/applier.h"
#include "databases/sqlite/capture.h"

namespace walship {

struct ReplicaSettings {
  std::string path;
  CaptureSettings capture;
  ApplierSettings applier;
};

enum class ReplicaRole : uint8_t { none, primary, standby };

struct ReplicaStatus {
  ReplicaRole role = ReplicaRole::none;
  CaptureStatus capture;  // as a primary
  ApplierStatus applier;  // as a standby
};

// Its calls wait for each other, except status() and setWait(); safe from any thread.
class Replica {
 public:
  // The engine outlives the replica. `events` is called from any thread.
  // WALSHIP_ERR_SQLITE_NOT_LOADED, WALSHIP_ERR_SQLITE.
  static Result<std::unique_ptr<Replica>> open(Engine& engine, ReplicaSettings settings, Capture::EventSink events);
  ~Replica();  // stop()

  // The engine must be primary. What the log holds and the database does not is applied first. The LSN at which log and
  // database are the same.
  Result<uint64_t> startPrimary();
  // Writes through this process's VFS are refused from then on.
  Result<void> startStandby();
  Result<void> stop();

  // The LSN behind everything committed by now. WALSHIP_ERR_NOT_PRIMARY.
  Result<uint64_t> captureNow();
  // See Capture::snapshotNow(). WALSHIP_ERR_NOT_PRIMARY.
  Result<uint64_t> snapshotNow();
  void setWait(bool wait);
  // Waits until a standby whose log was cut at `lsn` is back there and has applied it.
  // WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED, WALSHIP_ERR_TIMEOUT.
  Result<void> undo(uint64_t lsn, uint32_t timeoutMs);
  ReplicaStatus status();

 private:
  Replica(Engine& engine, ReplicaSettings settings, Capture::EventSink events)
      : engine_(engine), settings_(std::move(settings)), events_(std::move(events)) {}
  Result<void> stopRole(WalHook::Mode then);
  Result<void> finishStandby();
  Result<std::shared_ptr<Capture>> capture();

  Engine& engine_;
  const ReplicaSettings settings_;
  const Capture::EventSink events_;
  std::shared_ptr<WalHook> hook_;
  std::atomic<bool> wait_{false};
  std::mutex changing_;  // before roleMutex_
  std::mutex roleMutex_; // for a look at what there is
  std::shared_ptr<Capture> capture_;
  std::shared_ptr<Applier> applier_;
};

}  // namespace walship

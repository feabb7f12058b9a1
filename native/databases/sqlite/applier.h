// The standby's side: takes the transactions that the local log has flushed into the database, while readers read.
//
// Two threads: the applier reads the log and writes the WAL; the checkpointer copies the WAL into the database file.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "databases/sqlite/connection.h"
#include "databases/sqlite/reader.h"
#include "databases/sqlite/sidecar.h"
#include "databases/sqlite/undo.h"
#include "databases/sqlite/wal_writer.h"

namespace walship {

struct ApplierSettings {
  uint32_t checkpointMs = 1000;            // the checkpointer's interval
  // A WAL larger than this is checkpointed at once, and begun anew when it can be. At twice the size the applier waits
  // for it: so large, and one transaction more, is as large as it becomes without a reader that needs it.
  uint64_t checkpointBytes = 16ull << 20;
  uint64_t batchBytes = 1u << 20;          // of page images that go into one commit when the applier is behind
};

struct ApplierStatus {
  uint64_t appliedLsn = 0;
  uint64_t appliedUs = 0;     // wall clock of the primary at the commit of the last transaction applied
  uint64_t transactions = 0;  // applied since start()
  uint64_t commits = 0;       // they were applied in
  uint64_t pages = 0;
  uint64_t walBytes = 0;
  uint64_t checkpoints = 0;
  uint64_t checkpointedMsAgo = 0;  // the last one; 0 also if there was none
  uint64_t blockedMs = 0;          // for so long a reader has kept the WAL from being begun anew although it is large
  bool snapshotNeeded = false;     // nothing is applied until a snapshot comes in the log
  uint32_t snapshotPages = 0;      // of the one that is coming, 0 if there is none: pages in all, and here
  uint32_t snapshotPagesDone = 0;
  std::optional<Error> problem;    // why nothing is applied; a passing one is tried again
};

class Applier {
 public:
  // Makes the database if there is none. The engine outlives the applier, and was opened with `appliedByHand`.
  // WALSHIP_ERR_SQLITE_NOT_LOADED, WALSHIP_ERR_SQLITE, WALSHIP_ERR_LOG_CORRUPT (the sidecar file).
  static Result<std::unique_ptr<Applier>> open(Engine& engine, const std::string& path, const ApplierSettings& settings);
  ~Applier();  // stop()

  // First brings the database to where the log says it is, after a crash or a cut, then follows the log.
  void start();
  // Ends the threads, copies what it can into the database file, closes the connections and notes a clean close. For
  // good; transactions that the log holds only in part are not applied. Before the engine is closed.
  void stop();
  // Waits until every transaction that is whole in the flushed log by now is applied. false: not within `timeoutMs`.
  bool drain(uint32_t timeoutMs);

  uint64_t appliedLsn() const { return applied_.load(std::memory_order_acquire); }
  ApplierStatus status() const;
  Sidecar& sidecar() { return *sidecar_; }

 private:
  Applier(Engine& engine, std::string path, const ApplierSettings& settings)
      : engine_(engine), path_(std::move(path)), settings_(settings), reader_(engine, 0) {}

  void run();
  void problem(const Error& error);
  void checkpointed(const Result<void>& outcome);

  // reconcile.cc
  Result<void> reconcile();
  Result<void> reconcileTo(uint64_t startLsn, uint64_t flushed, const LostPages& lost);
  void awaitSnapshot(std::vector<uint64_t> files);

  Result<bool> applyAvailable(uint64_t flushed);
  Result<void> applyRecord(const LogRecord& record);
  Result<void> applyCopy(const LogRecord& record);
  void snapshotCame(const PageRecord& record);
  Result<void> appendPages(const PageRecord& record);
  Result<bool> begin(uint32_t pageBytes);  // false: stopping
  Result<void> commitBatch();
  Result<void> settle(uint64_t lsn, std::vector<uint64_t> files);
  void dropBatch();
  void applied(uint64_t lsn);

  void renewWal();
  void blocked(uint64_t nowNs);
  void checkpointer();
  Result<void> checkpointOnce(WalIndex& index);
  void holdLog(uint64_t lsn);

  Engine& engine_;
  const std::string path_;
  const ApplierSettings settings_;
  std::unique_ptr<Sidecar> sidecar_;
  Connection connection_;  // the applier thread's
  std::optional<WalIndex> index_;
  std::optional<WalWriter> writer_;
  Connection checkpointConnection_;
  std::optional<WalIndex> checkpointIndex_;

  // ---- the applier thread ----
  RecordReader reader_;
  uint64_t cuts_ = UINT64_MAX;      // Pump::cuts() that the reader's place holds for
  bool snapshotNeeded_ = false;
  std::optional<std::vector<uint64_t>> unsettled_;  // the sidecar learns of the first commit at once; LostPages::files
  bool transactionOpen_ = false;    // its first records are appended, its last one is not here yet
  uint32_t nextPart_ = 0;
  bool copyOpen_ = false;           // the batch holds everything since the first record of a copy (record.h)
  uint32_t nextCopyPart_ = 0;
  uint64_t batchEndLsn_ = 0;        // of the last whole transaction appended and not committed; 0: none
  uint64_t batchUs_ = 0;
  uint32_t batchDatabasePages_ = 0;
  uint32_t batchTransactions_ = 0;
  uint64_t nextRenewNs_ = 0;
  uint64_t nextForcedRenewNs_ = 0;  // of a WAL that is too large

  std::atomic<uint64_t> applied_{0};
  std::atomic<uint64_t> appliedUs_{0};
  std::atomic<uint64_t> seenLsn_{0};      // everything whole below is applied
  std::atomic<uint64_t> generation_{0};   // +1 when the database is about to be taken back
  std::atomic<uint64_t> transactions_{0};
  std::atomic<uint64_t> commits_{0};
  std::atomic<uint64_t> pages_{0};
  std::atomic<uint64_t> walBytes_{0};
  std::atomic<uint64_t> checkpoints_{0};
  std::atomic<uint64_t> checkpointedNs_{0};
  std::atomic<uint64_t> blockedSinceNs_{0};
  std::atomic<bool> snapshotNeededSeen_{false};
  std::atomic<uint32_t> snapshotPages_{0};
  std::atomic<uint32_t> snapshotPagesDone_{0};

  mutable std::mutex mutex_;
  std::condition_variable moved_;         // seenLsn_, or there is work for the checkpointer, or the end
  bool checkpointDue_ = false;
  std::optional<Error> problem_;
  std::optional<Error> checkpointProblem_;

  std::atomic<bool> stopping_{false};
  std::thread thread_;
  std::thread checkpointThread_;
};

}  // namespace walship

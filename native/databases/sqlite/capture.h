// The primary's side: brings every transaction of the database into the log, once and in order, and owns checkpoints.
//
// Two threads: one captures what is committed, woken by the VFS or by looking at the wal-index; one copies the WAL into
// the database file and begins it anew when it has grown. The WAL is pinned meanwhile: nobody else, in no process, can
// begin it anew, so no frame is lost that is not in the log. In wait mode the writers themselves capture, inside their
// commit.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "databases/sqlite/connection.h"
#include "databases/sqlite/reader.h"
#include "databases/sqlite/sidecar.h"
#include "databases/sqlite/transcriber.h"
#include "databases/sqlite/vfs.h"

namespace walship {

struct CaptureSettings {
  uint32_t checkpointMs = 1000;
  uint64_t checkpointBytes = 16ull << 20;  // a WAL this large is checkpointed at once and begun anew
  uint32_t pollMs = 5;                     // how soon commits of other processes are seen
  bool wait = false;                       // commits wait for the commit rule
  uint32_t commitTimeoutMs = 0;            // at most so long; 0: without end
};

struct CaptureStatus {
  uint64_t capturedLsn = 0;
  uint64_t transactions = 0;
  uint64_t snapshots = 0;
  uint64_t snapshotLsn = 0;     // where the last one of this run begins; 0 also if there was none
  uint32_t snapshotPages = 0;   // of the one under way: pages in all, and done
  uint32_t snapshotPagesDone = 0;
  uint64_t walBytes = 0;
  uint64_t checkpoints = 0;
  uint64_t restarts = 0;        // of the WAL
  uint64_t blockedMs = 0;       // for so long the WAL could not be begun anew although it is large
  uint64_t commitTimeouts = 0;
  std::optional<Error> problem;  // why nothing is captured; tried again
};

class Capture final : private WalHook::Listener {
 public:
  using EventSink = std::function<void(EngineEvent)>;  // called from any thread

  // The engine must be primary, and outlives the capture. Brings log and database to the same state first, if need be by
  // a snapshot of the whole database. Makes the database if there is none. WALSHIP_ERR_NOT_PRIMARY,
  // WALSHIP_ERR_SQLITE…, and the log's.
  static Result<std::unique_ptr<Capture>> start(Engine& engine, const std::string& path, const CaptureSettings& settings,
                                                EventSink events);
  ~Capture() override;
  // Captures what has been committed, waits for it to be flushed (not for ever), and ends. Whoever else has the database
  // open in this process should have closed it before. `then`: what the VFS does with writes from now on.
  Result<void> stop(WalHook::Mode then = WalHook::Mode::ignore);

  // The LSN behind everything committed by now.
  Result<uint64_t> captureNow();
  // Puts a copy of the database into the log, so that a node without any of it can begin there. Everybody writes and
  // commits meanwhile. The LSN behind it. WALSHIP_ERR_CLOSED: stop() came first.
  Result<uint64_t> snapshotNow();
  void setWait(bool wait);
  CaptureStatus status();

 private:
  Capture(Engine& engine, std::string path, const CaptureSettings& settings, EventSink events)
      : engine_(engine), path_(std::move(path)), settings_(settings), events_(std::move(events)) {}

  // resume.cc
  Result<void> resume();
  Result<void> open();
  Result<void> fillPartialRecord();
  struct Reached {
    WalPlace place;
    uint32_t databasePages;
    uint64_t lsn;
  };
  Result<std::optional<Reached>> lastReached();
  Result<void> applyLogFrom(uint64_t lsn);
  struct Anchor {
    Reached reached;
    bool changed;  // behind it the log holds more than places
  };
  Result<std::optional<Anchor>> newestAnchor(const WalIndexHeader& header);
  Result<bool> holds(const WalPlace& place, const WalIndexHeader& header);
  Result<bool> changesBehind(uint64_t lsn);
  Result<void> noteStart(bool asClosed);
  Result<uint32_t> pragma(const char* name);
  Result<void> snapshot();
  Result<void> anchor();

  // copy.cc
  Result<uint64_t> copyDatabase();
  Result<Transcriber::CopyStep> copyStep();
  Result<void> beginRead(WalIndexHeader& header, uint32_t timeoutMs, bool captured);
  void endRead();
  void paceCopy(const Transcriber::CopyStep& step);

  void run();
  bool round();
  Result<void> captureTo(const WalIndexHeader& header);
  void sleep();
  void failed(const Error& error);
  void refuseWrites(bool forGood);
  void allowWrites();
  Result<void> publishGivenUp(uint32_t lockMs, bool atOnce);
  Result<void> publish(const Transcriber::Unpublished& transaction, WalIndexHeader& header);
  void event(const char* type, const Error& detail, uint64_t lsn);
  bool awaitCommit(uint64_t lsn);
  bool leaseEnded(uint64_t lsn);

  // checkpoint.cc
  void checkpointer();
  Result<void> checkpointOnce();
  Result<bool> lockWrite(WalIndexHeader& header, uint32_t timeoutMs);
  Result<bool> restartWal();
  Result<bool> beginGeneration(WalIndexHeader& header);
  bool awaitFlushed(uint64_t lsn, uint32_t timeoutMs);

  // ---- WalHook::Listener ----
  void wake() override;
  bool mayCommit() override;
  bool commitWritten(uint64_t offset) override;

  Engine& engine_;
  const std::string path_;
  const CaptureSettings settings_;
  const EventSink events_;
  std::unique_ptr<Sidecar> sidecar_;
  std::shared_ptr<WalHook> hook_;
  std::mutex modeMutex_;  // the innermost
  std::atomic<bool> wait_{false};
  bool refusing_ = false;
  bool refusingForGood_ = false;
  std::atomic<bool> ending_{false};

  std::mutex copying_;  // before mutex_
  // Before mutex_ where both are held: SQLite's write lock.
  std::mutex mutex_;
  Connection connection_;
  std::optional<WalIndex> index_;
  std::optional<Transcriber> transcriber_;
  std::optional<Error> problem_;
  bool snapshotDue_ = false;
  // Behind a transaction whose writer was let go of, with it in the log and its frames in the WAL; 0: there is none. It is
  // to become visible, or, if others have written over it, to be replaced. Nobody writes until then.
  std::atomic<uint64_t> givenUpLsn_{0};
  std::atomic<uint64_t> seenLsn_{0};           // for status()
  std::atomic<uint64_t> seenTransactions_{0};
  std::atomic<uint64_t> snapshots_{0};
  std::atomic<uint64_t> snapshotLsn_{0};
  std::atomic<uint32_t> snapshotPages_{0};
  std::atomic<uint32_t> snapshotPagesDone_{0};
  uint32_t pageBytes_ = 0;

  // ---- the checkpointer's; it holds the pin ----
  Connection checkpointConnection_;
  std::optional<WalIndex> checkpointIndex_;

  std::mutex sleepMutex_;
  std::condition_variable woken_;
  bool wakeDue_ = false;
  bool checkpointDue_ = false;
  std::condition_variable checkpointWanted_;
  std::atomic<uint64_t> walBytes_{0};
  std::atomic<uint64_t> checkpoints_{0};
  std::atomic<uint64_t> restarts_{0};
  std::atomic<uint64_t> blockedSinceNs_{0};
  std::atomic<uint64_t> commitTimeouts_{0};
  bool started_ = false;
  std::thread thread_;
  std::thread checkpointThread_;
};

}  // namespace walship

// A VFS over the process's default one, the default itself from then on. It passes everything through, except for the
// WAL files of watched databases, whose writes it sees: a commit is a frame header with a database size in it and the
// page behind it.
//
// Why a VFS: it is the one place where the commit of any connection of this process, whoever opened it, can be made to
// wait before anybody sees it. What it does not see (other processes, connections opened before the load) the capture
// finds by looking at the wal-index.
#pragma once

#include <atomic>
#include <memory>
#include <shared_mutex>
#include <string>

#include "databases/sqlite/extension.h"

namespace walship {

// What the writers of one database are told, and what they tell. Lives as long as any of its users.
class WalHook {
 public:
  enum class Mode : uint8_t { ignore, notify, wait, refuse };

  class Listener {
   public:
    virtual ~Listener() = default;
    // A commit is under way: cheap, and only called while somebody waits for it.
    virtual void wake() = 0;
    // Asked in Mode::wait before a commit frame is written; false: the commit fails with SQLITE_READONLY.
    virtual bool mayCommit() = 0;
    // The frame that begins at `offset` of the WAL file commits, if the frames before it are valid: the writer may still
    // be about to correct their checksums, and calls again then. Called with SQLite's write lock held by the caller;
    // what is written becomes visible after the return. false: it must not; whether the log keeps it is not known.
    virtual bool commitWritten(uint64_t offset) = 0;
  };

  // Until detach() returns, the listener may be called.
  void attach(Listener* listener, Mode mode);
  void detach(Mode mode);
  void setMode(Mode mode) { mode_.store(mode, std::memory_order_release); }
  Mode mode() const { return mode_.load(std::memory_order_acquire); }
  // Between sleepy(true) and sleepy(false) each commit calls wake().
  void sleepy(bool asleep) { asleep_.store(asleep, std::memory_order_seq_cst); }

  // ---- by the VFS, on the writer's thread ----
  bool mayCommit();
  // false: the commit fails with SQLITE_IOERR.
  bool committing(uint64_t offset);

 private:
  std::atomic<Mode> mode_{Mode::ignore};
  std::atomic<bool> asleep_{false};
  std::shared_mutex mutex_;  // shared: a listener is being called
  Listener* listener_ = nullptr;
};

// WALSHIP_ERR_SQLITE_NOT_LOADED, WALSHIP_ERR_SQLITE.
Result<std::shared_ptr<WalHook>> hookOf(const std::string& databasePath);
// The VFS below ours: for connections of our own.
const char* baseVfsName();
// As SQLite names the file to its VFS.
Result<std::string> fullPath(const std::string& databasePath);
// Called at load, so that every database opened from then on goes through it.
int registerVfs();

}  // namespace walship

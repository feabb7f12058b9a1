// The small state file beside a database, `<database>-walship`: what a restart has to know and the log can't tell.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "databases/sqlite/record.h"

namespace walship {

enum class SidecarRole : uint8_t { none, primary, standby };

// What of the files would change if anybody else wrote to them.
struct FilesStamp {
  uint64_t databaseBytes = 0;
  uint64_t databaseChangedNs = 0;  // mtime
  uint64_t walBytes = 0;
  uint64_t walChangedNs = 0;
  bool operator==(const FilesStamp&) const = default;
  bool sameDatabase(const FilesStamp& other) const {
    return databaseBytes == other.databaseBytes && databaseChangedNs == other.databaseChangedNs;
  }
};

struct SidecarState {
  SidecarRole role = SidecarRole::none;  // the last one; none: walship has not had this database yet
  // All transactions of the log that end at or below are in the database and WAL files, durably.
  uint64_t appliedLsn = 0;
  bool closedCleanly = false;  // then the stamp and the place are those of the close
  FilesStamp stamp;
  WalPlace place;  // where the WAL ended
  std::vector<uint64_t> undone;  // keys (keyOf) of the diverged-… files of the log that are dealt with
};

// Safe from any thread.
class Sidecar {
 public:
  // A missing file is SidecarRole::none. WALSHIP_ERR_LOG_CORRUPT: damaged; WALSHIP_ERR_LOG_IO.
  static Result<std::unique_ptr<Sidecar>> open(const std::string& databasePath);

  SidecarState state() const;
  // Changes and durably stores it; `change` gives false to leave it as it is.
  Result<void> update(const std::function<bool(SidecarState&)>& change);
  // Of the files as they are now; an empty file counts as missing: to open a database makes an empty WAL.
  FilesStamp stampNow() const;

 private:
  explicit Sidecar(std::string databasePath) : databasePath_(std::move(databasePath)) {}

  const std::string databasePath_;
  mutable std::mutex mutex_;
  SidecarState state_;
};

}  // namespace walship

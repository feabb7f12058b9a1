// Who still needs the log: named readers with the LSN they have come to, kept in `readers` in the log
// directory across restarts; and how far back the log is kept for them.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "log/log.h"

namespace walship {

constexpr size_t kReadersMax = 1024;
constexpr size_t kReaderNameBytesMax = 255;

struct RegisteredReader {
  std::string name;
  uint64_t lsn = 0;             // everything below is no longer needed by it
  uint64_t lastSeenWallUs = 0;  // when it last said so
  bool operator==(const RegisteredReader&) const = default;
};

// Safe from any thread.
class ReaderRegistry {
 public:
  explicit ReaderRegistry(std::string dir) : dir_(std::move(dir)) {}

  // What an earlier run stored; a missing file is an empty registry. WALSHIP_ERR_LOG_CORRUPT,
  // WALSHIP_ERR_LOG_IO.
  Result<void> load();
  // Notes that `name` needs nothing below `lsn`. Registers it, and stores the registry, if the name is new.
  // WALSHIP_ERR_READER_INVALID: an empty or too long name, or kReadersMax readers are there already.
  Result<void> set(const std::string& name, uint64_t lsn);
  // Forgets `name`, and stores the registry. A name that is not there is no error.
  Result<void> remove(const std::string& name);
  // To be called before a trim, so that no reader comes back, after a crash, to an LSN that is gone.
  Result<void> store() const;

  // The reader that needs the oldest LSN.
  std::optional<RegisteredReader> slowest() const;
  std::vector<RegisteredReader> list() const;  // by name

 private:
  Result<void> storeLocked() const;

  const std::string dir_;
  mutable std::mutex mutex_;
  std::vector<RegisteredReader> readers_;  // by name
};

constexpr uint64_t kNoReader = UINT64_MAX;

// Everything below the LSN given back may be trimmed: `retainBytes` stay behind the tail, more if the slowest
// reader needs more (`slowestReaderLsn`, or kNoReader), but never more than `retainBytesMax` unless that is
// 0.
uint64_t retentionLsn(uint64_t tailLsn, const LogSettings& settings, uint64_t slowestReaderLsn);

}  // namespace walship

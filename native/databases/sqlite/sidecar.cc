#include "databases/sqlite/sidecar.h"

#include <sys/stat.h>

#include <filesystem>

#include "log/files.h"

namespace walship {

namespace {

constexpr uint32_t kMagic = 0x51535357;  // "WSSQ"
constexpr uint32_t kVersion = 1;
constexpr uint32_t kUndoneMax = 4096;

// Without padding: every byte goes into the file.
struct Stored {
  uint32_t version;
  uint32_t role;
  uint64_t appliedLsn;
  FilesStamp stamp;
  WalPlace place;
  uint32_t closedCleanly;
  uint32_t undone;
  uint32_t zero;
};
static_assert(sizeof(Stored) == 16 + 32 + 20 + 12);

StateFile fileOf(const std::string& databasePath) {
  const std::filesystem::path path(databasePath);
  const std::string dir = path.has_parent_path() ? path.parent_path().string() : ".";
  return {dir, path.filename().string() + "-walship", kMagic, sizeof(Stored) + kUndoneMax * 8,
          "remove the file; this node is then given a snapshot of the primary's database"};
}

void addFile(const std::string& path, uint64_t& bytes, uint64_t& changedNs) {
  struct stat found{};
  if (::stat(path.c_str(), &found) != 0 || found.st_size == 0) return;
  bytes = static_cast<uint64_t>(found.st_size);
  changedNs = static_cast<uint64_t>(found.st_mtim.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(found.st_mtim.tv_nsec);
}

}  // namespace

Result<std::unique_ptr<Sidecar>> Sidecar::open(const std::string& databasePath) {
  std::unique_ptr<Sidecar> sidecar(new Sidecar(databasePath));
  const StateFile file = fileOf(databasePath);
  auto loaded = file.load();
  if (!loaded) return loaded.error();
  if (!loaded.value()) return sidecar;
  FieldReader fields(*loaded.value());
  const auto stored = fields.take<Stored>();
  if (fields.failed() || stored.version != kVersion || stored.role > 2 || stored.undone > kUndoneMax) {
    return file.damaged("a version or a field that is not known");
  }
  SidecarState& state = sidecar->state_;
  state.role = static_cast<SidecarRole>(stored.role);
  state.appliedLsn = stored.appliedLsn;
  state.closedCleanly = stored.closedCleanly != 0;
  state.stamp = stored.stamp;
  state.place = stored.place;
  for (uint32_t i = 0; i < stored.undone; ++i) state.undone.push_back(fields.take<uint64_t>());
  if (!fields.complete()) return file.damaged("its length");
  return sidecar;
}

SidecarState Sidecar::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

Result<void> Sidecar::update(const std::function<bool(SidecarState&)>& change) {
  const std::lock_guard lock(mutex_);
  SidecarState next = state_;
  if (!change(next)) return {};
  if (next.undone.size() > kUndoneMax) {
    next.undone.erase(next.undone.begin(), next.undone.end() - static_cast<ptrdiff_t>(kUndoneMax));
  }
  Stored stored{};
  stored.version = kVersion;
  stored.role = static_cast<uint32_t>(next.role);
  stored.appliedLsn = next.appliedLsn;
  stored.closedCleanly = next.closedCleanly ? 1 : 0;
  stored.stamp = next.stamp;
  stored.place = next.place;
  stored.undone = static_cast<uint32_t>(next.undone.size());
  std::vector<std::byte> payload;
  appendField(payload, stored);
  for (const uint64_t key : next.undone) appendField(payload, key);
  if (auto written = fileOf(databasePath_).store(payload); !written) return written;
  state_ = std::move(next);
  return {};
}

FilesStamp Sidecar::stampNow() const {
  FilesStamp stamp;
  addFile(databasePath_, stamp.databaseBytes, stamp.databaseChangedNs);
  addFile(databasePath_ + "-wal", stamp.walBytes, stamp.walChangedNs);
  return stamp;
}

}  // namespace walship

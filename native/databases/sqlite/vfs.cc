#include "databases/sqlite/vfs.h"

#include <map>
#include <mutex>
#include <new>

namespace walship {

void WalHook::attach(Listener* listener, Mode mode) {
  const std::unique_lock lock(mutex_);
  WALSHIP_ASSERT(listener_ == nullptr);
  listener_ = listener;
  setMode(mode);
}

void WalHook::detach(Mode mode) {
  setMode(mode);  // before the lock: a writer that waits sees it
  const std::unique_lock lock(mutex_);
  listener_ = nullptr;
  sleepy(false);
}

bool WalHook::mayCommit() {
  if (mode() != Mode::wait) return true;
  const std::shared_lock lock(mutex_);
  return listener_ == nullptr || listener_->mayCommit();
}

bool WalHook::committing(uint64_t offset) {
  const Mode now = mode();
  if (now == Mode::notify) {
    if (!asleep_.load(std::memory_order_seq_cst)) return true;
    const std::shared_lock lock(mutex_);
    if (listener_ != nullptr) listener_->wake();
  } else if (now == Mode::wait) {
    const std::shared_lock lock(mutex_);
    return listener_ == nullptr || listener_->commitWritten(offset);
  }
  return true;
}

namespace {

constexpr int kFrameHeaderBytes = 24;
constexpr sqlite3_int64 kNone = -1;

sqlite3_vfs* base = nullptr;
sqlite3_vfs shim;
std::mutex hooksMutex;

std::map<std::string, std::shared_ptr<WalHook>>& hooks() {
  static std::map<std::string, std::shared_ptr<WalHook>> all;
  return all;
}

// In memory that SQLite allocates and frees: made by placement, taken down by xClose. The base VFS's file follows it.
struct WalFile {
  sqlite3_file file;
  std::shared_ptr<WalHook> hook;
  sqlite3_int64 commitAt = kNone;  // where the last commit frame begins
  sqlite3_int64 expected = kNone;  // where its page goes on
  bool pageSeen = false;

  sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};
static_assert(sizeof(WalFile) % alignof(sqlite3_int64) == 0);

WalFile& of(sqlite3_file* file) { return *reinterpret_cast<WalFile*>(file); }

int walClose(sqlite3_file* file) {
  WalFile& wal = of(file);
  const int outcome = wal.real()->pMethods->xClose(wal.real());
  file->pMethods = nullptr;
  wal.~WalFile();
  return outcome;
}

int walWrite(sqlite3_file* file, const void* data, int bytes, sqlite3_int64 offset) {
  WalFile& wal = of(file);
  if (wal.hook->mode() == WalHook::Mode::refuse) return SQLITE_READONLY;
  uint32_t databasePages = 0;
  if (bytes == kFrameHeaderBytes) {
    std::memcpy(&databasePages, static_cast<const char*>(data) + 4, sizeof databasePages);
    if (databasePages != 0 && !wal.hook->mayCommit()) return SQLITE_READONLY;
  }
  const int outcome = wal.real()->pMethods->xWrite(wal.real(), data, bytes, offset);
  if (outcome != SQLITE_OK) return outcome;
  if (databasePages != 0) {
    // The header of a frame whose page stands there already: its checksum has been corrected.
    const bool corrected = offset == wal.commitAt && wal.pageSeen;
    wal.commitAt = offset;
    wal.expected = offset + kFrameHeaderBytes;
    wal.pageSeen = false;
    if (corrected && !wal.hook->committing(static_cast<uint64_t>(offset))) return SQLITE_IOERR_WRITE;
  } else if (offset == wal.expected) {
    wal.expected += bytes;
    wal.pageSeen = true;
    if (!wal.hook->committing(static_cast<uint64_t>(wal.commitAt))) return SQLITE_IOERR_WRITE;
  }
  return SQLITE_OK;
}

int walRead(sqlite3_file* file, void* into, int bytes, sqlite3_int64 offset) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xRead(real, into, bytes, offset);
}
int walTruncate(sqlite3_file* file, sqlite3_int64 size) {
  WalFile& wal = of(file);
  if (wal.hook->mode() == WalHook::Mode::refuse) return SQLITE_READONLY;
  return wal.real()->pMethods->xTruncate(wal.real(), size);
}
int walSync(sqlite3_file* file, int flags) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xSync(real, flags);
}
int walFileSize(sqlite3_file* file, sqlite3_int64* size) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xFileSize(real, size);
}
int walLock(sqlite3_file* file, int level) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xLock(real, level);
}
int walUnlock(sqlite3_file* file, int level) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xUnlock(real, level);
}
int walCheckReservedLock(sqlite3_file* file, int* out) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xCheckReservedLock(real, out);
}
int walFileControl(sqlite3_file* file, int what, void* argument) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xFileControl(real, what, argument);
}
int walSectorSize(sqlite3_file* file) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xSectorSize(real);
}
int walDeviceCharacteristics(sqlite3_file* file) {
  sqlite3_file* real = of(file).real();
  return real->pMethods->xDeviceCharacteristics(real);
}

// Version 1: shared memory and mapped pages belong to database files.
const sqlite3_io_methods kWalMethods = {1,
                                        walClose,
                                        walRead,
                                        walWrite,
                                        walTruncate,
                                        walSync,
                                        walFileSize,
                                        walLock,
                                        walUnlock,
                                        walCheckReservedLock,
                                        walFileControl,
                                        walSectorSize,
                                        walDeviceCharacteristics,
                                        nullptr,
                                        nullptr,
                                        nullptr,
                                        nullptr,
                                        nullptr,
                                        nullptr};

std::shared_ptr<WalHook> hookOfWal(const char* walPath) {
  std::string path(walPath);
  path.resize(path.size() - 4);  // -wal
  const std::lock_guard lock(hooksMutex);
  auto& hook = hooks()[path];
  if (!hook) hook = std::make_shared<WalHook>();
  return hook;
}

int shimOpen(sqlite3_vfs*, sqlite3_filename name, sqlite3_file* file, int flags, int* outFlags) {
  if ((flags & SQLITE_OPEN_WAL) == 0 || name == nullptr || !std::string_view(name).ends_with("-wal")) {
    return base->xOpen(base, name, file, flags, outFlags);
  }
  auto* wal = new (file) WalFile{{nullptr}, hookOfWal(name)};
  wal->real()->pMethods = nullptr;
  const int outcome = base->xOpen(base, name, wal->real(), flags, outFlags);
  if (outcome == SQLITE_OK) {
    file->pMethods = &kWalMethods;
    return outcome;
  }
  // SQLite closes what has methods, also after an error; here nothing is left to close.
  if (wal->real()->pMethods != nullptr) wal->real()->pMethods->xClose(wal->real());
  wal->~WalFile();
  file->pMethods = nullptr;
  return outcome;
}

int shimDelete(sqlite3_vfs*, const char* name, int sync) { return base->xDelete(base, name, sync); }
int shimAccess(sqlite3_vfs*, const char* name, int flags, int* out) { return base->xAccess(base, name, flags, out); }
int shimFullPathname(sqlite3_vfs*, const char* name, int bytes, char* out) {
  return base->xFullPathname(base, name, bytes, out);
}
void* shimDlOpen(sqlite3_vfs*, const char* name) { return base->xDlOpen(base, name); }
void shimDlError(sqlite3_vfs*, int bytes, char* message) { base->xDlError(base, bytes, message); }
void (*shimDlSym(sqlite3_vfs*, void* library, const char* symbol))(void) {
  return base->xDlSym(base, library, symbol);
}
void shimDlClose(sqlite3_vfs*, void* library) { base->xDlClose(base, library); }
int shimRandomness(sqlite3_vfs*, int bytes, char* out) { return base->xRandomness(base, bytes, out); }
int shimSleep(sqlite3_vfs*, int microseconds) { return base->xSleep(base, microseconds); }
int shimCurrentTime(sqlite3_vfs*, double* now) { return base->xCurrentTime(base, now); }
int shimGetLastError(sqlite3_vfs*, int bytes, char* out) { return base->xGetLastError(base, bytes, out); }
int shimCurrentTimeInt64(sqlite3_vfs*, sqlite3_int64* now) { return base->xCurrentTimeInt64(base, now); }
int shimSetSystemCall(sqlite3_vfs*, const char* name, sqlite3_syscall_ptr call) {
  return base->xSetSystemCall(base, name, call);
}
sqlite3_syscall_ptr shimGetSystemCall(sqlite3_vfs*, const char* name) { return base->xGetSystemCall(base, name); }
const char* shimNextSystemCall(sqlite3_vfs*, const char* name) { return base->xNextSystemCall(base, name); }

}  // namespace

int registerVfs() {
  WALSHIP_ASSERT(base == nullptr);
  base = sqlite3_vfs_find(nullptr);
  if (base == nullptr || base->iVersion < 3) return SQLITE_ERROR;
  shim = *base;
  shim.iVersion = 3;
  shim.szOsFile = static_cast<int>(sizeof(WalFile)) + base->szOsFile;
  shim.pNext = nullptr;
  shim.zName = "walship";
  shim.pAppData = nullptr;
  shim.xOpen = shimOpen;
  shim.xDelete = shimDelete;
  shim.xAccess = shimAccess;
  shim.xFullPathname = shimFullPathname;
  shim.xDlOpen = shimDlOpen;
  shim.xDlError = shimDlError;
  shim.xDlSym = shimDlSym;
  shim.xDlClose = shimDlClose;
  shim.xRandomness = shimRandomness;
  shim.xSleep = shimSleep;
  shim.xCurrentTime = shimCurrentTime;
  shim.xGetLastError = shimGetLastError;
  shim.xCurrentTimeInt64 = shimCurrentTimeInt64;
  shim.xSetSystemCall = shimSetSystemCall;
  shim.xGetSystemCall = shimGetSystemCall;
  shim.xNextSystemCall = shimNextSystemCall;
  return sqlite3_vfs_register(&shim, 1);
}

const char* baseVfsName() {
  WALSHIP_ASSERT(base != nullptr);
  return base->zName;
}

Result<std::string> fullPath(const std::string& databasePath) {
  if (auto loaded = sqliteLoaded(); !loaded) return loaded.error();
  std::string path(static_cast<size_t>(base->mxPathname) + 1, '\0');
  // SQLITE_OK_SYMLINK is fine, too: the path is the file's own then.
  if ((base->xFullPathname(base, databasePath.c_str(), static_cast<int>(path.size()), path.data()) & 0xff) != SQLITE_OK) {
    return fileError("WALSHIP_ERR_SQLITE", "SQLite cannot make a full path of the database's name", databasePath);
  }
  path.resize(std::strlen(path.c_str()));
  return path;
}

Result<std::shared_ptr<WalHook>> hookOf(const std::string& databasePath) {
  auto path = fullPath(databasePath);
  if (!path) return path.error();
  return hookOfWal((path.value() + "-wal").c_str());
}

}  // namespace walship

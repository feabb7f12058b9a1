#include "log/files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdio>

#include "base/checksum.h"
#include "log/page.h"

namespace walship {

namespace {

constexpr uint64_t kChunkBytes = 1u << 20;

struct StateHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t reserved;
  uint64_t payloadBytes;
  uint64_t payloadChecksum;
};

}  // namespace

Error ioError(const std::string& what, int number, const std::string& file, int64_t offset) {
  const char* code = "WALSHIP_ERR_LOG_IO";
  const char* next = "look at the kernel log for the disk's own report before this log is opened again";
  if (number == ENOSPC || number == EDQUOT) {
    code = "WALSHIP_ERR_DISK_FULL";
    next = "make room on its file system, the write is tried again";
  } else if (number == EROFS) {
    code = "WALSHIP_ERR_DISK_READONLY";
    next = "the file system is mounted read-only: mount it writable and open the log again";
  } else if (number == EACCES || number == EPERM) {
    next = "give the user that runs walship the right to read and write it";
  } else if (number == EMFILE || number == ENFILE) {
    next = "raise the limit of open files";
  }
  Error error = systemError(code, what + " " + file, number, file, offset);
  if (offset >= 0) error.message += " (offset " + std::to_string(offset) + ")";
  error.message += "; ";
  error.message += next;
  return error;
}

std::string hex16(uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

Result<Fd> openFile(const std::string& file, int flags) {
  Fd fd(::open(file.c_str(), flags | O_CLOEXEC, 0640));
  if (!fd.valid()) return ioError("cannot open", errno, file);
  return fd;
}

Result<void> readAt(int fd, MutableBytes into, uint64_t offset, const std::string& file) {
  while (!into.empty()) {
    const ssize_t count = ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ioError("cannot read", errno, file, static_cast<int64_t>(offset));
    if (count == 0) {
      return fileError("WALSHIP_ERR_LOG_CORRUPT",
                       file + " ends at byte " + std::to_string(offset) +
                           ", it should be longer: it was cut by something else than walship",
                       file, static_cast<int64_t>(offset));
    }
    into = into.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return {};
}

Result<void> writeAt(int fd, Bytes bytes, uint64_t offset, const std::string& file) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return ioError("cannot write", count < 0 ? errno : EIO, file, static_cast<int64_t>(offset));
    }
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
  return {};
}

Result<void> zeroAt(int fd, uint64_t offset, uint64_t length, const std::string& file) {
  std::vector<std::byte> chunk(std::min(length, kChunkBytes));
  while (length > 0) {
    const MutableBytes part(chunk.data(), std::min(length, kChunkBytes));
    if (auto read = readAt(fd, part, offset, file); !read) return read;
    if (!allZero(part)) {
      std::memset(part.data(), 0, part.size());
      if (auto written = writeAt(fd, part, offset, file); !written) return written;
    }
    offset += part.size();
    length -= part.size();
  }
  return {};
}

Result<void> syncFile(int fd, const std::string& file) {
  if (::fdatasync(fd) != 0) return ioError("cannot sync", errno, file);
  return {};
}

Result<void> syncDirectory(const std::string& dir) {
  auto fd = openFile(dir, O_RDONLY | O_DIRECTORY);
  if (!fd) return fd.error();
  if (::fsync(fd.value().get()) != 0) return ioError("cannot sync the directory", errno, dir);
  return {};
}

Result<void> renameFile(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return ioError("cannot rename to " + to + " the file", errno, from);
  }
  return {};
}

Result<void> removeFile(const std::string& file) {
  if (::unlink(file.c_str()) != 0 && errno != ENOENT) return ioError("cannot remove", errno, file);
  return {};
}

Result<void> makeDirectory(const std::string& dir) {
  struct stat found {};
  if (::stat(dir.c_str(), &found) == 0) {
    if (S_ISDIR(found.st_mode)) return {};
    return fileError("WALSHIP_ERR_LOG_IO", dir + " is not a directory; name another one for the log", dir);
  }
  const size_t slash = dir.find_last_of('/');
  const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : dir.substr(0, slash);
  if (!dir.empty() && parent != dir) {
    if (auto made = makeDirectory(parent); !made) return made;
  }
  if (::mkdir(dir.c_str(), 0750) != 0 && errno != EEXIST) {
    return ioError("cannot make the directory", errno, dir);
  }
  return syncDirectory(parent);
}

Result<uint64_t> sizeOf(const std::string& file) {
  struct stat found {};
  if (::stat(file.c_str(), &found) != 0) return ioError("cannot look at", errno, file);
  return static_cast<uint64_t>(found.st_size);
}

Error StateFile::damaged(const std::string& what, int64_t offset) const {
  return fileError("WALSHIP_ERR_LOG_CORRUPT", path() + " is damaged: " + what + "; " + remedy, path(),
                   offset);
}

Result<std::optional<std::vector<std::byte>>> StateFile::load() const {
  using Payload = std::optional<std::vector<std::byte>>;
  const std::string file = path();
  struct stat found {};
  if (::stat(file.c_str(), &found) != 0) {
    if (errno == ENOENT) return Payload{};
    return ioError("cannot look at", errno, file);
  }
  const auto size = static_cast<uint64_t>(found.st_size);
  if (size < sizeof(StateHeader) || size > sizeof(StateHeader) + payloadBytesMax) {
    return damaged("it has " + std::to_string(size) + " bytes", 0);
  }
  auto fd = openFile(file, O_RDONLY);
  if (!fd) return fd.error();
  std::vector<std::byte> bytes(size);
  if (auto read = readAt(fd.value().get(), bytes, 0, file); !read) return read.error();
  const auto header = loadAt<StateHeader>(bytes, 0);
  const Bytes payload = Bytes(bytes).subspan(sizeof header);
  if (header.magic != magic) return damaged("the magic number is wrong", 0);
  if (header.version != kFormatVersion) {
    return damaged("it has format version " + std::to_string(header.version) +
                       ", this walship reads version " + std::to_string(kFormatVersion),
                   offsetof(StateHeader, version));
  }
  if (header.reserved != 0 || header.payloadBytes != payload.size()) {
    return damaged("its length does not match", offsetof(StateHeader, payloadBytes));
  }
  if (header.payloadChecksum != checksum(payload)) {
    return damaged("the checksum does not match", sizeof header);
  }
  return Payload(std::vector<std::byte>(payload.begin(), payload.end()));
}

Result<void> StateFile::store(Bytes payload) const {
  WALSHIP_ASSERT(payload.size() <= payloadBytesMax);
  const StateHeader header{magic, kFormatVersion, 0, payload.size(), checksum(payload)};
  std::vector<std::byte> bytes;
  bytes.reserve(sizeof header + payload.size());
  appendField(bytes, header);
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  const std::string fresh = path() + ".new";
  {
    auto fd = openFile(fresh, O_WRONLY | O_CREAT | O_TRUNC);
    if (!fd) return fd.error();
    if (auto written = writeAt(fd.value().get(), bytes, 0, fresh); !written) return written;
    if (auto synced = syncFile(fd.value().get(), fresh); !synced) return synced;
  }
  if (auto renamed = renameFile(fresh, path()); !renamed) return renamed;
  return syncDirectory(dir);
}

}  // namespace walship

// System calls on files, with errors that name the file, the offset and what to do next.
#pragma once

#include <fcntl.h>

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/fd.h"
#include "base/result.h"

namespace walship {

// WALSHIP_ERR_DISK_FULL, WALSHIP_ERR_DISK_READONLY or WALSHIP_ERR_LOG_IO, by `number` (errno).
Error ioError(const std::string& what, int number, const std::string& file, int64_t offset = -1);

std::string hex16(uint64_t value);

// Always close-on-exec.
Result<Fd> openFile(const std::string& file, int flags);
// Exactly `into.size()` bytes; a file that ends before is WALSHIP_ERR_LOG_CORRUPT.
Result<void> readAt(int fd, MutableBytes into, uint64_t offset, const std::string& file);
Result<void> writeAt(int fd, Bytes bytes, uint64_t offset, const std::string& file);
// Makes [offset, offset + length) zero; leaves alone what is zero already.
Result<void> zeroAt(int fd, uint64_t offset, uint64_t length, const std::string& file);
Result<void> syncFile(int fd, const std::string& file);
Result<void> syncDirectory(const std::string& dir);
Result<void> renameFile(const std::string& from, const std::string& to);
// A file that is not there is no error.
Result<void> removeFile(const std::string& file);
// With its missing parents.
Result<void> makeDirectory(const std::string& dir);
Result<uint64_t> sizeOf(const std::string& file);

// Small state files: a checksummed header and the payload, replaced as a whole (write, fdatasync, rename,
// sync of the directory), so that a crash leaves the old one or the new one.
struct StateFile {
  std::string dir;
  std::string name;
  uint32_t magic = 0;
  uint32_t payloadBytesMax = 0;
  std::string remedy;  // what to do when it is damaged

  std::string path() const { return dir + "/" + name; }
  Error damaged(const std::string& what, int64_t offset = 0) const;
  // Empty if there is no such file. WALSHIP_ERR_LOG_CORRUPT if it is not what store() wrote.
  Result<std::optional<std::vector<std::byte>>> load() const;
  Result<void> store(Bytes payload) const;
};

// Fields of a state file's payload, one after the other.
class FieldReader {
 public:
  explicit FieldReader(Bytes bytes) : bytes_(bytes) {}

  template <class T>
  T take() {
    const Bytes field = takeBytes(sizeof(T));
    return failed_ ? T{} : loadAt<T>(field, 0);
  }
  Bytes takeBytes(size_t count) {
    if (failed_ || bytes_.size() < count) {
      failed_ = true;
      return {};
    }
    const Bytes field = bytes_.first(count);
    bytes_ = bytes_.subspan(count);
    return field;
  }
  bool failed() const { return failed_; }
  bool complete() const { return !failed_ && bytes_.empty(); }

 private:
  Bytes bytes_;
  bool failed_ = false;
};

template <class T>
void appendField(std::vector<std::byte>& to, const T& value) {
  const Bytes bytes = bytesOf(value);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

}  // namespace walship

// What tests of the log share: a scratch directory, and a writer that makes frames and pages as a primary
// does.
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "log/files.h"
#include "log/log.h"

namespace walship::test {

inline void removeTree(const std::string& path) {
  if (DIR* dir = ::opendir(path.c_str())) {
    while (const dirent* entry = ::readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") removeTree(path + "/" + name);
    }
    ::closedir(dir);
    ::rmdir(path.c_str());
  } else {
    ::unlink(path.c_str());
  }
}

// A directory of its own, on tmpfs unless TMPDIR says otherwise; gone with the object.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    const char* base = std::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/dev/shm") + "/walship-log-XXXXXX";
    WALSHIP_ASSERT(::mkdtemp(path_.data()) != nullptr);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() { removeTree(path_); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline Geometry smallGeometry() { return {kPageBytesMin, 4, 0x1234567890abcdefull}; }

inline LogSettings smallSettings(const std::string& dir, uint32_t spareSegments = 0) {
  LogSettings settings;
  settings.dir = dir;
  settings.geometry = smallGeometry();
  settings.spareSegments = spareSegments;
  settings.zeroFill = false;
  return settings;
}

inline std::vector<std::byte> readFile(const std::string& path) {
  const uint64_t size = sizeOf(path).value();
  std::vector<std::byte> bytes(size);
  auto fd = openFile(path, O_RDONLY);
  WALSHIP_ASSERT(readAt(fd.value().get(), bytes, 0, path).ok());
  return bytes;
}

inline void writeFile(const std::string& path, Bytes bytes) {
  auto fd = openFile(path, O_WRONLY | O_CREAT | O_TRUNC);
  WALSHIP_ASSERT(writeAt(fd.value().get(), bytes, 0, path).ok());
}

inline void flipBit(const std::string& path, uint64_t offset, int bit = 0) {
  auto fd = openFile(path, O_RDWR);
  std::byte one{};
  const MutableBytes byte(&one, 1);
  WALSHIP_ASSERT(readAt(fd.value().get(), byte, offset, path).ok());
  one ^= std::byte{1} << bit;
  WALSHIP_ASSERT(writeAt(fd.value().get(), byte, offset, path).ok());
}

// The segment files of a directory, by name.
inline std::map<std::string, std::vector<std::byte>> segmentContents(const Log& log) {
  std::map<std::string, std::vector<std::byte>> contents;
  for (const SegmentInfo& segment : log.segments()) {
    contents[segment.file.substr(segment.file.find_last_of('/') + 1)] = readFile(segment.file);
  }
  return contents;
}

// The byte that stands at `lsn` in every test log.
inline std::byte byteAt(uint64_t lsn, uint64_t salt = 0) {
  const uint64_t mixed = (lsn / 8 + salt) * 0x9e3779b97f4a7c15ull;
  return static_cast<std::byte>(mixed >> (8 * (lsn % 8)));
}

// Makes pages in memory and hands them to a log in pieces.
class Writer {
 public:
  Writer(Log& log, const LogPosition& tail, uint64_t epoch = 1, uint64_t salt = 0)
      : log_(&log),
        geometry_(log.geometry()),
        page_(geometry_.pageBytes),
        tail_(tail),
        epoch_(epoch),
        salt_(salt) {
    if (tail.offset != 0) {
      WALSHIP_ASSERT(log.readPage(tail.page, page_).ok());
      std::fill(page_.begin() + tail.offset, page_.end(), std::byte{0});
      flushed_ = tail.offset;
    }
  }

  const LogPosition& tail() const { return tail_; }
  void setEpoch(uint64_t epoch) { epoch_ = epoch; }

  // Appends `length` payload bytes, split over pages where need be. Full pages go to the log by themselves.
  Result<void> append(uint64_t length) {
    while (length > 0) {
      if (tail_.offset == 0 || geometry_.pageBytes - tail_.offset <= kFrameHeaderBytes) {
        if (auto turned = turnPage(); !turned) return turned;
      }
      const auto part = static_cast<uint32_t>(
          std::min<uint64_t>(length, geometry_.pageBytes - tail_.offset - kFrameHeaderBytes));
      const MutableBytes frame = MutableBytes(page_).subspan(tail_.offset, frameBytes(part));
      for (uint32_t at = 0; at < part; ++at) frame[kFrameHeaderBytes + at] = byteAt(tail_.lsn + at, salt_);
      const FrameChain chain = sealFrame(frame, part, part < length ? kFrameContinues : uint16_t{0}, epoch_,
                                         1'700'000'000'000'000 + tail_.lsn, tail_.chain());
      tail_ = {chain.lsn, chain.headerChecksum, chain.epoch, tail_.page,
               tail_.offset + static_cast<uint32_t>(frame.size())};
      length -= part;
    }
    return {};
  }
  // Gives the log what it does not have yet.
  Result<void> flush() {
    if (flushed_ >= tail_.offset) return {};
    auto written = log_->write(tail_.page, flushed_, Bytes(page_).subspan(flushed_, tail_.offset - flushed_));
    if (written) flushed_ = tail_.offset;
    return written;
  }
  Result<void> commit() {
    if (auto flushed = flush(); !flushed) return flushed;
    if (auto synced = log_->sync(); !synced) return synced;
    return log_->mark(tail_);
  }

 private:
  Result<void> turnPage() {
    if (auto flushed = flush(); !flushed) return flushed;
    if (tail_.offset != 0) ++tail_.page;
    std::fill(page_.begin(), page_.end(), std::byte{0});
    sealPageHeader(page_, geometry_, tail_.page, epoch_, tail_.chain());
    tail_.offset = kPageHeaderBytes;
    flushed_ = 0;
    return {};
  }

  Log* log_;
  Geometry geometry_;
  std::vector<std::byte> page_;
  LogPosition tail_;
  uint64_t epoch_;
  uint64_t salt_;
  uint32_t flushed_ = 0;
};

// All payload bytes that a log gives, from its first LSN on; checks that each is what was appended there.
inline bool holdsOnlyWhatWasAppended(const Log& log, const LogPosition& tail, uint64_t salt = 0) {
  if (tail.lsn == log.firstLsn()) return true;
  std::vector<std::byte> page(log.geometry().pageBytes);
  uint64_t lsn = log.firstLsn();
  for (uint64_t number = log.firstPage(); number <= tail.page; ++number) {
    auto end = log.readPage(number, page);
    if (!end) return false;
    bool right = true;
    forEachFrame(page, 0, end.value().offset, [&](const FrameHeader& header, Bytes payload) {
      right = right && header.lsn == lsn;
      for (size_t at = 0; at < payload.size(); ++at) right = right && payload[at] == byteAt(lsn + at, salt);
      lsn += payload.size();
      return right;
    });
    if (!right) return false;
  }
  return lsn == tail.lsn;
}

}  // namespace walship::test

// The log as its readers see it, while one thread writes, trims and truncates. Files are opened for each
// read: a log of any size costs no open files, and a page whose file was trimmed away meanwhile is found out
// by its number.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>

#include "log/segment.h"

namespace walship {

class LogView {
 public:
  LogView(const std::string& dir, const Geometry& geometry) : table_(dir, geometry), geometry_(geometry) {}

  // ---- writing thread ----
  SegmentTable& table() { return table_; }
  const SegmentTable& table() const { return table_; }
  void begin(const LogPosition& origin, const LogPosition& tail);
  // All bytes below are in the files.
  void grow(uint64_t written) { written_.store(written, std::memory_order_release); }
  // The log ends at `tail` now. Before the bytes behind are destroyed.
  void shrink(const LogPosition& tail);
  // Before the files of the pages below are given away.
  void forgetBelow(uint64_t firstPage, uint64_t firstLsn);

  // ---- any thread ----
  // Pages seen as one run of bytes: page * pageBytes + offset.
  uint64_t byteOf(const LogPosition& position) const {
    return position.page * geometry_.pageBytes + position.offset;
  }
  uint64_t written() const { return written_.load(std::memory_order_acquire); }
  bool empty() const { return written() == firstPage() * geometry_.pageBytes; }
  uint64_t lastPage() const { return lastPageOf(written()); }
  uint64_t firstPage() const { return firstPage_.load(std::memory_order_acquire); }
  uint64_t firstLsn() const { return firstLsn_.load(std::memory_order_acquire); }
  Result<LogPosition> readPage(uint64_t page, MutableBytes into) const;
  Result<uint64_t> pageOf(uint64_t lsn) const;
  Result<LogPosition> positionAt(uint64_t lsn) const;
  void readRaw(uint64_t page, uint32_t offset, MutableBytes into) const;

 private:
  uint64_t lastPageOf(uint64_t written) const {
    return written == 0 ? 0 : (written - 1) / geometry_.pageBytes;
  }
  Error trimmed(uint64_t page) const;
  // Runs `attempt(written)` again as long as it fails while the log is being truncated or trimmed under it.
  template <class T, class Attempt>
  Result<T> settled(uint64_t page, Attempt&& attempt) const;
  Result<LogPosition> tryReadPage(uint64_t page, uint64_t written, MutableBytes into) const;
  Result<uint64_t> tryPageOf(uint64_t lsn, uint64_t written) const;
  // none: the log was truncated meanwhile.
  std::optional<Result<LogPosition>> tryPositionAt(uint64_t lsn, uint64_t truncations) const;

  SegmentTable table_;
  const Geometry geometry_;
  mutable std::mutex originMutex_;
  LogPosition origin_;
  std::atomic<uint64_t> firstPage_{0};
  std::atomic<uint64_t> firstLsn_{0};
  std::atomic<uint64_t> written_{0};
  std::atomic<uint64_t> truncations_{0};
};

}  // namespace walship

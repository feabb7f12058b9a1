// What stands behind Log: the state of the writing thread, in log.cc (opening and growing) and cut.cc
// (cutting and closing). Readers only touch the view.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "log/mark.h"
#include "log/recovery.h"
#include "log/spares.h"
#include "log/view.h"

namespace walship {

class Log::Implementation {
 public:
  explicit Implementation(const LogSettings& settings)
      : settings_(settings), geometry_(settings.geometry), view_(settings.dir, settings.geometry) {}

  Result<void> open(RecoveryReport* report);
  Result<void> write(uint64_t page, uint32_t offset, Bytes bytes);
  Result<void> sync();
  Result<void> mark(const LogPosition& position, bool durable);
  Result<void> startAt(const LogPosition& position);
  Result<void> truncate(const LogPosition& to, const LogPosition& oldTail);
  Result<uint64_t> trimBelow(uint64_t lsn);
  Result<void> zeroTail(const LogPosition& tail);
  Result<void> close(const LogPosition& tail);
  Result<void> repairPage(uint64_t page, Bytes bytes, uint64_t replaces);
  Result<std::vector<ShortSegment>> shortSegments(bool grow);

  const LogSettings settings_;
  const Geometry geometry_;
  LogView view_;
  std::mutex writing_;  // held by Log around each call below "writing"

  uint64_t spareBytes() const { return spares_ ? spares_->bytes() : 0; }

 private:
  struct OpenSegment {
    Fd fd;
    std::string file;
    uint64_t firstPage = 0;
    bool dirty = false;  // written since the last sync
  };

  // Every failure but a full disk is final: what is on disk is no longer known.
  Error failed(Error error) {
    if (!error.is("WALSHIP_ERR_DISK_FULL")) failure_ = error;
    return error;
  }
  template <class T>
  Result<T> noted(Result<T> result) {
    if (!result) return failed(result.error());
    return result;
  }
  Mark markAt(const LogPosition& position) const { return {position, view_.firstPage(), false, geometry_}; }

  Result<void> settle(const Recovery& found);
  Result<void> openTail(uint64_t page);
  Result<void> rollOver(uint64_t page, uint64_t firstLsn);
  Result<void> syncSegments();
  Result<void> writeMark(const Mark& mark, bool durable);
  Result<void> cutBehind(const LogPosition& tail);
  Result<void> removeBehind(const std::vector<SegmentFile>& files);
  Result<void> saveCut(const LogPosition& to, const LogPosition& oldTail);
  Result<LogPosition> checkedTail(const LogPosition& tail);

  Fd lock_;
  std::optional<MarkFile> markFile_;
  LogPosition marked_;
  std::unique_ptr<Spares> spares_;
  OpenSegment tail_;                // the segment written to; no fd in an empty log
  std::vector<OpenSegment> older_;  // left behind by the tail, not synced yet
  uint64_t synced_ = 0;             // LogView::byteOf()
  std::optional<Error> failure_;
};

}  // namespace walship

// DIR/mark: how far the log is known to be durable. Two slots in blocks of their own, written in turn, so
// that a torn write leaves the other one. The newer valid slot counts.
#pragma once

#include <optional>
#include <string>

#include "base/fd.h"
#include "log/page.h"

namespace walship {

struct Mark {
  LogPosition position;    // durable: recovery must reach it
  uint64_t firstPage = 0;  // the oldest page kept: segments below it are left over from an unfinished trim
  bool closed = false;     // clean close: nothing stands behind `position`
  Geometry geometry;
};

class MarkFile {
 public:
  // What the file in `dir` says; empty if it is missing or damaged (`damaged` tells which).
  static Result<std::optional<Mark>> load(const std::string& dir, bool* damaged);

  // Opens the file for writing (made if missing).
  static Result<MarkFile> open(const std::string& dir);
  // One small write; durable only after sync().
  Result<void> write(const Mark& mark);
  Result<void> sync();
  // Both slots and a sync: for what recovery must never see undone (trim, truncate, close).
  Result<void> writeDurably(const Mark& mark);

 private:
  std::string file_;
  Fd fd_;
  uint64_t sequence_ = 0;  // of the newest slot
};

}  // namespace walship

// A log of five segments that something then happens to.
#pragma once

#include <doctest/doctest.h>

#include "test/log/support.h"

namespace walship::test {

struct MadeLog {
  LogPosition tail;
  std::vector<SegmentInfo> segments;
};

// Five segments, closed cleanly or left as by a crash.
inline MadeLog make(const std::string& dir, bool close = true,
                    uint64_t clusterTag = smallGeometry().clusterTag) {
  auto settings = smallSettings(dir, 1);
  settings.geometry.clusterTag = clusterTag;
  RecoveryReport report;
  auto log = Log::open(settings, &report);
  REQUIRE(log.ok());
  Writer writer(*log.value(), report.tail);
  for (int count = 0; count < 55; ++count) {
    REQUIRE(writer.append(20'000).ok());
    REQUIRE(writer.commit().ok());
  }
  MadeLog made{writer.tail(), log.value()->segments()};
  REQUIRE(made.segments.size() == 5);
  if (close) REQUIRE(log.value()->close(writer.tail()).ok());
  return made;
}

inline Error openError(const LogSettings& settings) {
  RecoveryReport report;
  auto log = Log::open(settings, &report);
  REQUIRE_FALSE(log.ok());
  CHECK_FALSE(log.error().message.empty());
  return log.error();
}

}  // namespace walship::test

// Reading a log without opening it for use: what `walship log inspect | verify | export` do. Nothing is
// changed and no lock is taken, so a log in use can be looked at too; what is trimmed or truncated under the
// look may then be reported as missing. Every `path` is a log directory, or a `diverged-…` file of one.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "log/log.h"
#include "log/readers.h"

namespace walship {

struct LogSummary {
  Geometry geometry;
  LogPosition tail;  // behind the last valid frame
  uint64_t firstPage = 0;
  uint64_t firstLsn = 0;
  std::vector<SegmentInfo> segments;
  uint64_t bytesOnDisk = 0;       // of segments and spares
  uint64_t discardableBytes = 0;  // incomplete, behind the tail: the next open discards them
  bool inUse = false;             // a process has the log open
  bool closedCleanly = false;
  std::optional<LogPosition> mark;  // the log is known to be durable up to there
  NodeRecord record;
  std::vector<RegisteredReader> readers;
  std::vector<std::string> spares;
  std::vector<std::string> diverged;
  std::vector<std::string> strays;
  std::string note;             // what an open would say
  std::vector<Error> problems;  // why an open would fail; then tail and segments are what could be found out
};

// Fast: reads the mark, the pages from there on, and the first page header of each segment.
// WALSHIP_ERR_LOG_NOT_FOUND: neither a log nor a file of one.
Result<LogSummary> inspectLog(const std::string& path);

constexpr size_t kProblemsMax = 10'000;

struct LogVerification {
  Geometry geometry;
  uint64_t pages = 0;         // looked at
  uint64_t frames = 0;        // valid
  uint64_t payloadBytes = 0;  // of valid frames
  uint64_t firstLsn = 0;
  LogPosition tail;             // behind the last valid frame
  std::vector<Error> problems;  // each with file and offset; at most kProblemsMax
  uint64_t problemsLeftOut = 0;
  bool stopped = false;  // by `progress`
};

// Gives false to stop.
using VerifyProgress = std::function<bool(uint64_t doneBytes, uint64_t totalBytes)>;

// Checks every page and frame, and goes on behind a bad page.
Result<LogVerification> verifyLog(const std::string& path, const VerifyProgress& progress);

using ExportSink = std::function<Result<void>(Bytes payload)>;

// Gives `sink` the payload bytes of [fromLsn, toLsn), in order. WALSHIP_ERR_LOG_TRIMMED: the log begins
// behind `fromLsn`; WALSHIP_ERR_LOG_RANGE: it ends before `toLsn`, or the range is turned round; errors of
// `sink` come back as they are. What lies before the place of an error has been given to `sink` already.
Result<void> exportLog(const std::string& path, uint64_t fromLsn, uint64_t toLsn, const ExportSink& sink);

}  // namespace walship

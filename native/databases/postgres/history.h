// History files of timelines, "00000003.history", as PostgreSQL writes and keeps them: walship keeps them in the log
// directory.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace walship::postgres {

struct TimelineEnd {
  uint32_t timeline = 0;
  uint64_t switchLsn = 0;  // the next one begins there
  bool operator==(const TimelineEnd&) const = default;
};

// The timelines before the one whose history file this is, oldest first. WALSHIP_ERR_POSTGRES_HISTORY.
Result<std::vector<TimelineEnd>> parseHistory(std::string_view text);

std::string historyFileName(uint32_t timeline);
// none: there is no such file. WALSHIP_ERR_LOG_IO.
Result<std::optional<std::string>> loadHistory(const std::string& dir, uint32_t timeline);
Result<void> storeHistory(const std::string& dir, uint32_t timeline, std::string_view text);

}  // namespace walship::postgres

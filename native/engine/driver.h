// Drives an engine from a native thread, without JavaScript: what the benchmarks measure the data plane with.
#pragma once

#include "engine/engine.h"

namespace walship {

struct DriveSettings {
  uint32_t appendBytes = 65536;
  uint32_t inFlight = 0;   // appends not yet committed at a time; 0: as many as the engine takes
  uint32_t seconds = 1;
  uint64_t appendsMax = UINT64_MAX;
  uint32_t warmupAppends = 0;
  bool spin = false;       // poll for the commit instead of sleeping until it comes
};

struct DriveResult {
  uint64_t appends = 0;
  uint64_t bytes = 0;
  uint64_t elapsedNs = 0;      // from the first append to the commit of the last
  uint64_t backPressures = 0;
  uint64_t endLsn = 0;
  Histogram commitNs;          // only with inFlight == 1
};

// Blocks. Error: what append() gave, or WALSHIP_ERR_TIMEOUT if nothing commits for ten seconds.
Result<std::unique_ptr<DriveResult>> drive(Engine& engine, const DriveSettings& settings);

}  // namespace walship

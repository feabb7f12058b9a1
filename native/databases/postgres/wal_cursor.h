// Reads the log for a walsender: hands out payload where it lies in the arena.
//
// A message of the stream must not end within a record, except at the end of a WAL page: "walreceiver relies on the fact
// that we never split a WAL record across two messages" (PostgreSQL, XLogSendPhysical). A standby that is given part of a
// record finds its checksum wrong, and begins its stream anew.
#pragma once

#include <sys/uio.h>

#include "engine/engine.h"

namespace walship::postgres {

class WalCursor {
 public:
  explicit WalCursor(Engine& engine) : engine_(engine) {}

  // What to send of [lsn, limit), at most `bytesMax`; nothing, if the rest of a record is yet to come, unless it `ends` at
  // the limit: then none comes. The vectors point into the arena and are good until release(), which must come soon: a page
  // that is held cannot be cut, nor leave.
  struct Piece {
    std::vector<iovec> parts;
    size_t bytes = 0;
    bool newerEpoch = false;  // what comes next is of an epoch beyond `epochMax`
  };
  // Blocks for the disk. WALSHIP_ERR_LOG_TRIMMED, WALSHIP_ERR_ARENA_BUSY (try again), and the log's.
  Result<Piece> read(uint64_t lsn, uint64_t limit, uint64_t epochMax, size_t bytesMax, bool ends);
  void release() { pins_.clear(); }

 private:
  Engine& engine_;
  std::vector<Pin> pins_;
  uint64_t page_ = UINT64_MAX;  // where to go on without walking the page from its beginning
  uint32_t offset_ = 0;         // of the frame that holds nextLsn_, or follows it
  uint64_t nextLsn_ = UINT64_MAX;
  uint64_t cuts_ = 0;
};

}  // namespace walship::postgres

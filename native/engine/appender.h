// The primary's end of the log. append() copies into the current arena page (the only copy on the primary); the pump
// seals what has gathered since into frames: group commit, one frame per batch, a new one at page ends and at the frame
// limit.
//
// Threads: append() from any thread; start(), stop() and seal() from the pump. One mutex, held for the copy only;
// checksums are computed outside of it, on bytes nobody writes any more.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "replication/store.h"

namespace walship {

struct SealedBatch {
  uint64_t endLsn = 0;
  uint64_t openedNs = 0;  // when the first byte of the oldest frame of the batch was appended (monotonic)
  uint64_t bytes = 0;
};

// Who sees to what was appended.
enum class Ship : uint8_t {
  byPump,    // it is woken
  byCaller,  // nobody is told: the caller calls Pump::takeTurn() or wake() soon
};

class Appender {
 public:
  // `wake`: called after an append when nothing was pending before.
  Appender(Store& store, uint32_t frameBytesMax, std::function<void()> wake);

  // The LSN behind the bytes. Takes all or nothing. `continues`: the next append goes on with it; together they are one
  // append, which is committed as a whole, and which a new primary keeps as a whole or not at all. Errors:
  // WALSHIP_ERR_BACKPRESSURE (no page free, or held: wait for `writable`), WALSHIP_ERR_NOT_PRIMARY,
  // WALSHIP_ERR_APPEND_TOO_LARGE, or what fail() gave.
  Result<uint64_t> append(Bytes bytes, bool continues = false, Ship ship = Ship::byPump);
  uint64_t endLsn() const { return endLsn_.load(std::memory_order_acquire); }
  size_t appendBytesMax() const { return appendBytesMax_; }

  void start(uint64_t epoch);
  // Seals everything and takes no more; ends a hold.
  void stop();
  // While on, append() refuses with WALSHIP_ERR_BACKPRESSURE. The LSN behind all that was taken: nothing is added to it
  // after the return. Error: WALSHIP_ERR_NOT_PRIMARY. Any thread.
  Result<uint64_t> hold(bool on);
  bool held() const { return held_.load(std::memory_order_acquire); }
  void fail(Error error);
  bool pending() const { return pendingFlag_.load(std::memory_order_seq_cst); }
  // Seals at most about `bytesMax`. bytes == 0: there was nothing.
  SealedBatch seal(size_t bytesMax);
  // `lsn`, or, if that is within an append, where this began. Of what is sealed; `lsn` never goes back. Pump.
  uint64_t wholeBelow(uint64_t lsn);

 private:
  struct PendingFrame {
    std::byte* pageData;
    uint64_t page;
    uint64_t openedNs;
    uint32_t offset;
    uint32_t length;
    uint16_t flags;
  };

  struct Split {
    uint64_t firstLsn;
    uint64_t endLsn;
  };

  void noteSplit(uint64_t firstLsn, uint64_t endLsn, bool continues);
  Result<void> makeRoom(size_t bytes);
  void beginFrame();
  size_t frameRoom() const;  // payload bytes that the open frame still takes
  void closeFrame(uint16_t flags);
  std::optional<PendingFrame> takePending();

  Store& store_;
  const uint32_t frameBytesMax_;
  const uint32_t pageRoom_;        // payload bytes a whole page is sure to take
  const size_t appendBytesMax_;
  const std::function<void()> wake_;

  std::mutex mutex_;
  bool active_ = false;
  std::atomic<bool> held_{false};  // written with mutex_ held
  bool failed_ = false;
  Error failure_;
  uint64_t epoch_ = 0;
  std::deque<Pin> ahead_;          // pages behind the store's tail page, in order
  uint64_t page_ = 0;              // being written
  std::byte* pageData_ = nullptr;
  uint32_t offset_ = 0;            // next free byte of it
  bool frameOpen_ = false;
  uint32_t frameLength_ = 0;
  uint64_t frameOpenedNs_ = 0;
  bool continued_ = false;         // what was appended last goes on with the next append
  std::deque<PendingFrame> pending_;
  std::deque<Split> splits_;            // appends of several frames that are sealed, and not known to be committed; pump
  std::optional<uint64_t> splitFrom_;   // one of which not all frames are sealed; pump
  std::atomic<uint64_t> endLsn_{0};
  std::atomic<bool> pendingFlag_{false};
};

}  // namespace walship

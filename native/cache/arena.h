// The arena: the pages in memory, one region, registered once with every RDMA device.
//
// Which page leaves is decided in TypeScript (src/cache) ahead of time: offerVictims() hands over a list, and the data
// plane takes the next victim from it without asking. Should the list run dry (a stalled event loop), the arena finds a
// victim itself, so the log never waits for JavaScript. Only a page that is finished, flushed and unpinned can leave.
//
// Threads: every call is safe from any thread; one short mutex, taken per page or per range, never per append.
// Ownership: a Pin keeps its page's bytes in place. Who fills a page (the appender, a session, the loader) is its only
// writer; bytes below `filled` are immutable, so readers with a pin need no lock for them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "log/page.h"

namespace walship {

class Arena;

// Keeps one page in the arena while it lives. Move-only.
class Pin {
 public:
  Pin() = default;
  Pin(Pin&& other) noexcept : arena_(std::exchange(other.arena_, nullptr)), slot_(other.slot_) {}
  Pin& operator=(Pin&& other) noexcept;
  Pin(const Pin&) = delete;
  Pin& operator=(const Pin&) = delete;
  ~Pin() { release(); }

  explicit operator bool() const { return arena_ != nullptr; }
  uint32_t slot() const { return slot_; }
  std::byte* data() const;
  MutableBytes bytes() const;
  uint64_t page() const;
  uint32_t filled() const;  // bytes of whole, checked frames (page header included)
  bool finished() const;    // no frame will be added; the next one stands in page + 1
  void release();

 private:
  friend class Arena;
  Pin(Arena* arena, uint32_t slot) : arena_(arena), slot_(slot) {}
  Arena* arena_ = nullptr;
  uint32_t slot_ = 0;
};

enum class PageOrigin : uint8_t { appended = 1, loaded = 2 };

// Why a page is looked up. `ship`, `flush` and `scrub` are not accesses to the policy: the first shipping of fresh bytes,
// the write to disk and the comparison of copies happen to every page alike. Nor is `loadedFor`: taking up the page that was
// loaded for this very access.
enum class Access : uint8_t { ship, flush, scrub, loadedFor, tailRead, catchUp };

struct ArenaEvent {
  enum Kind : uint8_t { appended = 1, loaded = 2, removed = 3, dropped = 4 };
  Kind kind;
  uint32_t slot;
  uint64_t page;
};

struct TracedAccess {
  uint64_t atNs;
  uint64_t page;
  char kind;  // a appended, t tail read, c catch-up read, s scrub
};

struct ArenaCounters {
  uint64_t loads = 0;
  uint64_t evictionsFromList = 0;
  uint64_t evictionsUnlisted = 0;
  uint64_t starvations = 0;  // somebody needed a page and there was none
};

class Arena {
 public:
  // Errors: WALSHIP_ERR_ARENA_MEMORY.
  static Result<std::unique_ptr<Arena>> create(uint32_t slots, uint32_t pageBytes, bool hugePages);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  MutableBytes memory() const { return {base_, size_t{slots_} * pageBytes_}; }
  uint32_t slots() const { return slots_; }
  uint32_t pageBytes() const { return pageBytes_; }
  bool hugePages() const { return hugePages_; }

  // A slot for a page, pinned, empty and of undefined content. None: nothing can leave now, or the page is being loaded.
  // A new page takes the place of an old one of its number (that was loaded while the log was being cut).
  // `loaded` pages stay invisible to find() until publishLoaded().
  Pin create(uint64_t page, PageOrigin origin);
  // The page if it is here.
  Pin find(uint64_t page, Access access);
  bool contains(uint64_t page);
  // Free slots and pages that could leave now.
  uint32_t available();

  // Called by the page's only writer. `end` is the place behind the last whole frame.
  void publish(const Pin& pin, const LogPosition& end);
  // The page is done: zeroes the rest, so that it can be written out whole.
  void finish(const Pin& pin);
  void publishLoaded(const Pin& pin, const LogPosition& end, bool finished);
  // Where the last whole frame of the page ends.
  LogPosition end(const Pin& pin);
  // Called by the flusher when the whole finished page is on disk and it has gone on to the next.
  void setFlushed(const Pin& pin);

  // Gives a page back without condition (a grant that was never used, a diverged tail). Its last pin must be `pin`.
  void discard(Pin pin);
  // Forgets a page that can leave: whoever wants it next reads it from disk. False if it cannot, or is not here.
  bool drop(uint64_t page);
  // Divergence: forgets every page above `to.page` and cuts that one back to `to.offset`.
  // False if one of them, or that one, is pinned: a reader must not see bytes change under its pin.
  bool cutBack(const LogPosition& to);

  // ---- the policy's side (called from JavaScript through the addon) ----
  // Shared: the views that JavaScript has of it may outlive the arena.
  std::shared_ptr<uint8_t[]> referenceBits() const { return references_; }
  size_t drainEvents(ArenaEvent* into, size_t most);
  void slotPages(int64_t* into);  // −1: none
  void offerVictims(const uint32_t* slots, const double* pages, size_t count);
  ArenaCounters counters();
  uint32_t used();

  // Records what readers want, whether the page is here or must be loaded.
  void traceAccesses(bool on);
  void noteLoadedFor(uint64_t page, Access access);
  std::vector<TracedAccess> drainTrace();

  // Set when somebody went away without a page; cleared by the caller that found one free again.
  std::atomic<bool> starved{false};

 private:
  friend class Pin;
  enum class State : uint8_t { free, loading, present };
  struct Slot {
    uint64_t page = 0;
    LogPosition end;
    std::atomic<uint32_t> filled{0};
    bool flushed = false;
    uint32_t pins = 0;
    State state = State::free;
    std::atomic<bool> finished{false};
  };
  struct Victim {
    uint32_t slot;
    uint64_t page;
  };

  Arena(std::byte* base, size_t mappedBytes, uint32_t slots, uint32_t pageBytes, bool hugePages);
  bool canLeave(const Slot& slot) const;
  std::optional<uint32_t> takeSlot();
  void remove(uint32_t slot);
  void unpin(uint32_t slot);
  void pushEvent(ArenaEvent::Kind kind, uint32_t slot, uint64_t page);
  void trace(Access access, uint64_t page);

  std::byte* base_;
  size_t mappedBytes_;
  uint32_t slots_;
  uint32_t pageBytes_;
  bool hugePages_;
  std::unique_ptr<Slot[]> table_;
  std::shared_ptr<uint8_t[]> references_;

  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, uint32_t> slotOf_;
  std::vector<uint32_t> free_;
  std::vector<Victim> victims_;
  size_t nextVictim_ = 0;
  uint32_t hand_ = 0;
  std::vector<ArenaEvent> events_;
  uint64_t eventsDropped_ = 0;
  bool tracing_ = false;
  std::vector<TracedAccess> trace_;
  ArenaCounters counters_;
};

}  // namespace walship

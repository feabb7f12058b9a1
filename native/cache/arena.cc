#include "cache/arena.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/clock.h"

namespace walship {

namespace {
constexpr size_t kHugePageBytes = 2u << 20;
constexpr size_t kEventsMax = 1u << 16;   // beyond it the keeper resynchronises from slotPages()
constexpr size_t kTraceMax = 4u << 20;
}  // namespace

Pin& Pin::operator=(Pin&& other) noexcept {
  if (this != &other) {
    release();
    arena_ = std::exchange(other.arena_, nullptr);
    slot_ = other.slot_;
  }
  return *this;
}

std::byte* Pin::data() const { return arena_->base_ + size_t{slot_} * arena_->pageBytes_; }
MutableBytes Pin::bytes() const { return {data(), arena_->pageBytes_}; }
uint64_t Pin::page() const { return arena_->table_[slot_].page; }
uint32_t Pin::filled() const { return arena_->table_[slot_].filled.load(std::memory_order_acquire); }
bool Pin::finished() const { return arena_->table_[slot_].finished.load(std::memory_order_acquire); }

void Pin::release() {
  if (arena_ != nullptr) std::exchange(arena_, nullptr)->unpin(slot_);
}

Result<std::unique_ptr<Arena>> Arena::create(uint32_t slots, uint32_t pageBytes, bool hugePages) {
  const size_t wanted = size_t{slots} * pageBytes;
  const size_t bytes = roundUp(wanted, kHugePageBytes);
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  void* base = MAP_FAILED;
  bool huge = false;
  if (hugePages) {
    base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_HUGETLB | MAP_POPULATE, -1, 0);
    huge = base != MAP_FAILED;
  }
  if (base == MAP_FAILED) base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (base == MAP_FAILED) {
    return systemError("WALSHIP_ERR_ARENA_MEMORY",
                       "cannot map " + std::to_string(bytes >> 20) + " MiB for the arena (make arena.bytes smaller)",
                       errno);
  }
  // Transparent huge pages are a hint. A child of fork() must not share (and so copy) memory that a device writes into.
  if (hugePages && !huge) ::madvise(base, bytes, MADV_HUGEPAGE);
  ::madvise(base, bytes, MADV_DONTFORK);
  return std::unique_ptr<Arena>(new Arena(static_cast<std::byte*>(base), bytes, slots, pageBytes, huge));
}

Arena::Arena(std::byte* base, size_t mappedBytes, uint32_t slots, uint32_t pageBytes, bool hugePages)
    : base_(base),
      mappedBytes_(mappedBytes),
      slots_(slots),
      pageBytes_(pageBytes),
      hugePages_(hugePages),
      table_(std::make_unique<Slot[]>(slots)),
      references_(std::make_shared<uint8_t[]>(slots)) {
  free_.reserve(slots);
  for (uint32_t slot = slots; slot-- > 0;) free_.push_back(slot);
  slotOf_.reserve(slots);
}

Arena::~Arena() {
  for (uint32_t slot = 0; slot < slots_; ++slot) WALSHIP_ASSERT(table_[slot].pins == 0);
  ::munmap(base_, mappedBytes_);
}

bool Arena::canLeave(const Slot& slot) const {
  return slot.state == State::present && slot.pins == 0 && slot.finished.load(std::memory_order_relaxed) &&
         slot.flushed;
}

void Arena::remove(uint32_t index) {
  Slot& slot = table_[index];
  slotOf_.erase(slot.page);
  slot.state = State::free;
  slot.filled.store(0, std::memory_order_relaxed);
  slot.finished.store(false, std::memory_order_relaxed);
  slot.flushed = false;
  references_[index] = 0;
  pushEvent(ArenaEvent::removed, index, slot.page);
}

std::optional<uint32_t> Arena::takeSlot() {
  if (!free_.empty()) {
    const uint32_t index = free_.back();
    free_.pop_back();
    return index;
  }
  while (nextVictim_ < victims_.size()) {
    const Victim victim = victims_[nextVictim_++];
    const Slot& slot = table_[victim.slot];
    if (slot.page == victim.page && canLeave(slot)) {
      remove(victim.slot);
      ++counters_.evictionsFromList;
      return victim.slot;
    }
  }
  // The list ran dry: second chance by reference bit, two rounds at most.
  for (uint32_t step = 0; step < 2 * slots_; ++step) {
    const uint32_t index = hand_;
    hand_ = hand_ + 1 == slots_ ? 0 : hand_ + 1;
    if (!canLeave(table_[index])) continue;
    if (step < slots_ && references_[index] != 0) continue;
    remove(index);
    ++counters_.evictionsUnlisted;
    return index;
  }
  ++counters_.starvations;
  starved.store(true, std::memory_order_release);
  return std::nullopt;
}

Pin Arena::create(uint64_t page, PageOrigin origin) {
  const std::lock_guard lock(mutex_);
  if (const auto old = slotOf_.find(page); old != slotOf_.end()) {
    const uint32_t slot = old->second;
    if (origin == PageOrigin::loaded || table_[slot].pins != 0) return {};
    remove(slot);
    free_.push_back(slot);
  }
  const auto index = takeSlot();
  if (!index) return {};
  Slot& slot = table_[*index];
  slot.page = page;
  slot.end = {};
  slot.pins = 1;
  slot.state = origin == PageOrigin::loaded ? State::loading : State::present;
  slotOf_[page] = *index;
  if (origin == PageOrigin::loaded) {
    ++counters_.loads;
  } else {
    pushEvent(ArenaEvent::appended, *index, page);
    if (tracing_ && trace_.size() < kTraceMax) trace_.push_back({monotonicNs(), page, 'a'});
  }
  return Pin(this, *index);
}

Pin Arena::find(uint64_t page, Access access) {
  const std::lock_guard lock(mutex_);
  const auto found = slotOf_.find(page);
  if (found == slotOf_.end() || table_[found->second].state != State::present) return {};
  ++table_[found->second].pins;
  if (access > Access::loadedFor) references_[found->second] = 1;
  if (tracing_) trace(access, page);
  return Pin(this, found->second);
}

bool Arena::contains(uint64_t page) {
  const std::lock_guard lock(mutex_);
  return slotOf_.contains(page);
}

uint32_t Arena::available() {
  const std::lock_guard lock(mutex_);
  auto count = static_cast<uint32_t>(free_.size());
  for (uint32_t slot = 0; slot < slots_; ++slot) count += canLeave(table_[slot]) ? 1 : 0;
  return count;
}

void Arena::publish(const Pin& pin, const LogPosition& end) {
  Slot& slot = table_[pin.slot_];
  const std::lock_guard lock(mutex_);
  WALSHIP_ASSERT(end.page == slot.page && end.offset >= slot.filled.load(std::memory_order_relaxed) &&
                 end.offset <= pageBytes_);
  slot.end = end;
  slot.filled.store(end.offset, std::memory_order_release);
}

void Arena::finish(const Pin& pin) {
  Slot& slot = table_[pin.slot_];
  const uint32_t filled = slot.filled.load(std::memory_order_relaxed);
  std::memset(pin.data() + filled, 0, pageBytes_ - filled);
  slot.finished.store(true, std::memory_order_release);
}

void Arena::publishLoaded(const Pin& pin, const LogPosition& end, bool finished) {
  const std::lock_guard lock(mutex_);
  Slot& slot = table_[pin.slot_];
  WALSHIP_ASSERT(slot.state == State::loading);
  slot.end = end;
  slot.filled.store(end.offset, std::memory_order_release);
  slot.finished.store(finished, std::memory_order_release);
  slot.flushed = finished;
  slot.state = State::present;
  pushEvent(ArenaEvent::loaded, pin.slot_, slot.page);
}

LogPosition Arena::end(const Pin& pin) {
  const std::lock_guard lock(mutex_);
  return table_[pin.slot_].end;
}

void Arena::setFlushed(const Pin& pin) {
  const std::lock_guard lock(mutex_);
  WALSHIP_ASSERT(table_[pin.slot_].finished.load(std::memory_order_relaxed));
  table_[pin.slot_].flushed = true;
}

void Arena::discard(Pin pin) {
  const std::lock_guard lock(mutex_);
  Slot& slot = table_[pin.slot_];
  WALSHIP_ASSERT(slot.pins == 1);
  slot.pins = 0;
  remove(pin.slot_);
  free_.push_back(pin.slot_);
  pin.arena_ = nullptr;
}

bool Arena::drop(uint64_t page) {
  const std::lock_guard lock(mutex_);
  const auto found = slotOf_.find(page);
  if (found == slotOf_.end() || !canLeave(table_[found->second])) return false;
  const uint32_t slot = found->second;
  remove(slot);
  free_.push_back(slot);
  return true;
}

bool Arena::cutBack(const LogPosition& to) {
  const std::lock_guard lock(mutex_);
  for (uint32_t index = 0; index < slots_; ++index) {
    const Slot& slot = table_[index];
    if (slot.state != State::free && slot.page >= to.page && slot.pins != 0) return false;
  }
  for (uint32_t index = 0; index < slots_; ++index) {
    Slot& slot = table_[index];
    if (slot.state == State::free || slot.page < to.page) continue;
    if (slot.page > to.page) {
      remove(index);
      free_.push_back(index);
    } else {
      slot.end = to;
      slot.filled.store(to.offset, std::memory_order_release);
      slot.finished.store(false, std::memory_order_release);
      slot.flushed = false;
    }
  }
  return true;
}

void Arena::unpin(uint32_t index) {
  const std::lock_guard lock(mutex_);
  WALSHIP_ASSERT(table_[index].pins > 0);
  --table_[index].pins;
}

size_t Arena::drainEvents(ArenaEvent* into, size_t most) {
  const std::lock_guard lock(mutex_);
  size_t count = 0;
  if (eventsDropped_ > 0 && most > 0) {
    into[count++] = {ArenaEvent::dropped, 0, eventsDropped_};
    eventsDropped_ = 0;
    events_.clear();
    return count;
  }
  count = std::min(most, events_.size());
  std::copy_n(events_.begin(), count, into);
  events_.erase(events_.begin(), events_.begin() + static_cast<ptrdiff_t>(count));
  return count;
}

void Arena::slotPages(int64_t* into) {
  const std::lock_guard lock(mutex_);
  for (uint32_t slot = 0; slot < slots_; ++slot) {
    into[slot] = table_[slot].state == State::present ? static_cast<int64_t>(table_[slot].page) : -1;
  }
}

void Arena::offerVictims(const uint32_t* slots, const double* pages, size_t count) {
  const std::lock_guard lock(mutex_);
  victims_.clear();
  nextVictim_ = 0;
  for (size_t i = 0; i < count; ++i) {
    if (slots[i] < slots_) victims_.push_back({slots[i], static_cast<uint64_t>(pages[i])});
  }
}

ArenaCounters Arena::counters() {
  const std::lock_guard lock(mutex_);
  return counters_;
}

uint32_t Arena::used() {
  const std::lock_guard lock(mutex_);
  return slots_ - static_cast<uint32_t>(free_.size());
}

void Arena::traceAccesses(bool on) {
  const std::lock_guard lock(mutex_);
  tracing_ = on;
}

std::vector<TracedAccess> Arena::drainTrace() {
  const std::lock_guard lock(mutex_);
  return std::exchange(trace_, {});
}

void Arena::pushEvent(ArenaEvent::Kind kind, uint32_t slot, uint64_t page) {
  if (eventsDropped_ > 0 || events_.size() >= kEventsMax) {
    ++eventsDropped_;
    return;
  }
  events_.push_back({kind, slot, page});
}

void Arena::noteLoadedFor(uint64_t page, Access access) {
  const std::lock_guard lock(mutex_);
  if (tracing_) trace(access, page);
}

void Arena::trace(Access access, uint64_t page) {
  if (access < Access::loadedFor || trace_.size() >= kTraceMax) return;
  const char kind = access == Access::tailRead ? 't' : 'c';
  trace_.push_back({monotonicNs(), page, kind});
}

}  // namespace walship

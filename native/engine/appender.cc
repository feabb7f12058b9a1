#include "engine/appender.h"

#include "base/clock.h"

namespace walship {

namespace {
// A frame is not begun in the last few bytes of a page.
constexpr uint32_t kFrameRoomMin = kFrameHeaderBytes + 64;

uint32_t sureRoom(uint32_t pageBytes, uint32_t frameBytesMax) {
  const uint32_t room = pageBytes - kPageHeaderBytes;
  const uint32_t frames = room / frameBytes(frameBytesMax) + 2;
  return room - frames * (kFrameHeaderBytes + kFrameAlignment) - kFrameRoomMin;
}
}  // namespace

Appender::Appender(Store& store, uint32_t frameBytesMax, std::function<void()> wake)
    : store_(store),
      frameBytesMax_(std::min(frameBytesMax, store.geometry().payloadRoomMax())),
      pageRoom_(sureRoom(store.geometry().pageBytes, frameBytesMax_)),
      appendBytesMax_(size_t{store.arena().slots() / 4} * pageRoom_),
      wake_(std::move(wake)) {}

void Appender::start(uint64_t epoch) {
  const std::lock_guard lock(mutex_);
  WALSHIP_ASSERT(!active_ && pending_.empty() && ahead_.empty());
  const LogPosition& tail = store_.received();
  epoch_ = epoch;
  page_ = tail.page;
  pageData_ = store_.tailPage().data();
  offset_ = std::max(tail.offset, kPageHeaderBytes);
  frameOpen_ = false;
  continued_ = false;
  splits_.clear();
  splitFrom_.reset();
  endLsn_.store(tail.lsn, std::memory_order_release);
  active_ = true;
}

void Appender::stop() {
  {
    const std::lock_guard lock(mutex_);
    if (!active_) return;
    active_ = false;
    held_ = false;
  }
  while (seal(SIZE_MAX).bytes > 0) {
  }
  const std::lock_guard lock(mutex_);
  while (!ahead_.empty()) {
    store_.arena().discard(std::move(ahead_.back()));
    ahead_.pop_back();
  }
}

Result<uint64_t> Appender::hold(bool on) {
  const std::lock_guard lock(mutex_);
  if (!active_) return makeError("WALSHIP_ERR_NOT_PRIMARY", "this node is a standby; there is nothing to hold");
  held_.store(on, std::memory_order_release);
  return endLsn_.load(std::memory_order_relaxed);
}

void Appender::fail(Error error) {
  const std::lock_guard lock(mutex_);
  failed_ = true;
  failure_ = std::move(error);
}

Result<void> Appender::makeRoom(size_t bytes) {
  // What the page being written is sure to take; the frame limit can cost a few more headers.
  const uint32_t pageBytes = store_.geometry().pageBytes;
  const uint32_t used = frameOpen_ ? offset_ + kFrameHeaderBytes + frameLength_ : offset_;
  const uint32_t left = pageBytes - used;
  const uint32_t headers = (left / frameBytes(frameBytesMax_) + 3) * (kFrameHeaderBytes + kFrameAlignment) + kFrameRoomMin;
  const size_t room = left > headers ? left - headers : 0;
  if (bytes <= room) return {};
  const size_t pagesNeeded = (bytes - room + pageRoom_ - 1) / pageRoom_;
  const uint64_t tailPage = page_;
  const uint64_t lastAhead = ahead_.empty() ? tailPage : std::max(tailPage, ahead_.back().page());
  for (uint64_t page = lastAhead + 1; page <= tailPage + pagesNeeded; ++page) {
    Pin pin = store_.arena().create(page, PageOrigin::appended);
    if (!pin) {
      return makeError("WALSHIP_ERR_BACKPRESSURE",
                       "the arena is full of pages not yet flushed; append again when the engine is writable");
    }
    ahead_.push_back(std::move(pin));
  }
  return {};
}

void Appender::beginFrame() {
  const uint32_t pageBytes = store_.geometry().pageBytes;
  if (pageBytes - offset_ < kFrameRoomMin) {
    ++page_;
    // The pump may already have taken earlier pages out of ahead_: find this one by its number.
    WALSHIP_ASSERT(!ahead_.empty() && ahead_.front().page() <= page_ && page_ <= ahead_.back().page());
    pageData_ = ahead_[page_ - ahead_.front().page()].data();
    offset_ = kPageHeaderBytes;
  }
  frameOpen_ = true;
  frameLength_ = 0;
  frameOpenedNs_ = monotonicNs();
}

size_t Appender::frameRoom() const {
  const uint32_t start = offset_ + kFrameHeaderBytes + frameLength_;
  return std::min<size_t>(store_.geometry().pageBytes - start, frameBytesMax_ - frameLength_);
}

void Appender::closeFrame(uint16_t flags) {
  pending_.push_back({pageData_, page_, frameOpenedNs_, offset_, frameLength_, flags});
  offset_ += frameBytes(frameLength_);
  frameOpen_ = false;
}

Result<uint64_t> Appender::append(Bytes bytes, bool continues, Ship ship) {
  bool wasPending = true;
  uint64_t end = 0;
  {
    const std::lock_guard lock(mutex_);
    if (failed_) return failure_;
    if (!active_) {
      return makeError("WALSHIP_ERR_NOT_PRIMARY", "this node is a standby; append on the primary, or promote this node");
    }
    if (held_.load(std::memory_order_relaxed)) {
      return makeError("WALSHIP_ERR_BACKPRESSURE", "the primary is held for a switchover; append again when it is writable");
    }
    if (bytes.size() > appendBytesMax_) {
      return makeError("WALSHIP_ERR_APPEND_TOO_LARGE", "an append of " + std::to_string(bytes.size()) +
                                                           " bytes; at most " + std::to_string(appendBytesMax_) +
                                                           " with this arena (a quarter of it)");
    }
    if (auto room = makeRoom(bytes.size()); !room) return room.error();
    // An append that takes several frames begins with one of its own: so it can be cut off as a whole.
    if (frameOpen_ && !continued_ && (continues || bytes.size() > frameRoom())) closeFrame(0);
    size_t done = 0;
    while (done < bytes.size()) {
      if (!frameOpen_) beginFrame();
      const size_t room = frameRoom();
      const size_t step = std::min(room, bytes.size() - done);
      std::memcpy(pageData_ + offset_ + kFrameHeaderBytes + frameLength_, bytes.data() + done, step);
      frameLength_ += static_cast<uint32_t>(step);
      done += step;
      const bool more = done < bytes.size() || continues;
      if (more || step == room) closeFrame(more ? kFrameContinues : uint16_t{0});
    }
    if (!bytes.empty()) continued_ = continues;
    end = endLsn_.load(std::memory_order_relaxed) + bytes.size();
    endLsn_.store(end, std::memory_order_release);
    if (!bytes.empty()) wasPending = pendingFlag_.exchange(true, std::memory_order_seq_cst);
  }
  if (!wasPending && ship == Ship::byPump) wake_();
  return end;
}

std::optional<Appender::PendingFrame> Appender::takePending() {
  const std::lock_guard lock(mutex_);
  if (pending_.empty() && frameOpen_) closeFrame(0);
  if (pending_.empty()) {
    pendingFlag_.store(false, std::memory_order_release);
    return std::nullopt;
  }
  const PendingFrame frame = pending_.front();
  pending_.pop_front();
  if (frame.page != store_.received().page) {
    WALSHIP_ASSERT(!ahead_.empty() && ahead_.front().page() == frame.page);
    Pin next = std::move(ahead_.front());
    ahead_.pop_front();
    store_.openPage(std::move(next));
  }
  return frame;
}

void Appender::noteSplit(uint64_t firstLsn, uint64_t endLsn, bool continues) {
  if (continues) {
    if (!splitFrom_) splitFrom_ = firstLsn;
  } else if (splitFrom_) {
    splits_.push_back({*splitFrom_, endLsn});
    splitFrom_.reset();
  }
}

uint64_t Appender::wholeBelow(uint64_t lsn) {
  while (!splits_.empty() && splits_.front().endLsn <= lsn) splits_.pop_front();
  if (!splits_.empty()) return std::min(lsn, splits_.front().firstLsn);
  return splitFrom_ ? std::min(lsn, *splitFrom_) : lsn;
}

SealedBatch Appender::seal(size_t bytesMax) {
  SealedBatch batch;
  while (batch.bytes < bytesMax) {
    const auto frame = takePending();
    if (!frame) break;
    LogPosition at = store_.received();
    const MutableBytes page(frame->pageData, store_.geometry().pageBytes);
    if (at.offset == 0) {
      sealPageHeader(page, store_.geometry(), frame->page, epoch_, at.chain());
      at.offset = kPageHeaderBytes;
    }
    WALSHIP_ASSERT(frame->page == at.page && frame->offset == at.offset);
    const FrameChain chain = sealFrame(page.subspan(frame->offset, frameBytes(frame->length)), frame->length, frame->flags,
                                       epoch_, wallUs(), at.chain());
    store_.advance({chain.lsn, chain.headerChecksum, chain.epoch, at.page, at.offset + frameBytes(frame->length)});
    noteSplit(at.lsn, chain.lsn, (frame->flags & kFrameContinues) != 0);
    if (batch.bytes == 0) batch.openedNs = frame->openedNs;
    batch.bytes += frame->length;
    batch.endLsn = chain.lsn;
  }
  return batch;
}

}  // namespace walship

#include "databases/postgres/wal_records.h"

#include <algorithm>
#include <cstring>

namespace walship::postgres {

namespace {
constexpr size_t kLengthBytes = 4;  // a record is aligned so that its length is never split by a page's end
constexpr uint64_t kRecordAlignment = 8;
constexpr uint32_t kRecordBytesMax = 1u << 30;
constexpr uint16_t kContinuesRecord = 0x0001;
constexpr uint8_t kSwitchInfo = 0x40;

// XLOG_SWITCH: the rest of the segment belongs to it.
bool isSwitch(Bytes header) { return loadAt<uint8_t>(header, 17) == 0 && (loadAt<uint8_t>(header, 16) & 0xf0) == kSwitchInfo; }

// A commit, also of a prepared transaction, that asks the standbys to say when they have applied it: synchronous_commit =
// remote_apply. Its data begin with a time and the flags that say so; what may stand before them: an origin, a transaction
// of which it is a part.
bool asksForApplied(Bytes head) {
  constexpr uint8_t kTransactions = 1;
  constexpr uint8_t kCommit = 0x00, kCommitPrepared = 0x30, kOperation = 0x70, kHasInfo = 0x80;
  constexpr uint8_t kTopLevel = 252, kOrigin = 253, kLongData = 254, kShortData = 255;
  constexpr uint32_t kApplyFeedback = 1u << 29;
  const uint8_t info = loadAt<uint8_t>(head, 16);
  const uint8_t operation = info & kOperation;
  if (loadAt<uint8_t>(head, 17) != kTransactions || (info & kHasInfo) == 0) return false;
  if (operation != kCommit && operation != kCommitPrepared) return false;
  size_t at = kRecordHeaderBytes;
  if (loadAt<uint8_t>(head, at) == kOrigin) at += 3;
  if (loadAt<uint8_t>(head, at) == kTopLevel) at += 5;
  const uint8_t data = loadAt<uint8_t>(head, at);
  if (data != kShortData && data != kLongData) return false;
  at += (data == kShortData ? 2 : 5) + 8;
  return (loadAt<uint32_t>(head, at) & kApplyFeedback) != 0;
}
}  // namespace

WalRecords::Piece WalRecords::next(Bytes bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const uint64_t inPage = lsn_ % kWalPageBytes;
    const uint64_t pageLsn = lsn_ - inPage;
    const uint64_t pageHeader = pageLsn % segmentBytes_ == 0 ? kWalLongHeaderBytes : kWalPageHeaderBytes;
    // Up to where nothing new can come.
    uint64_t step = std::min<uint64_t>(bytes.size() - done, inPage < pageHeader ? pageHeader - inPage : kWalPageBytes - inPage);
    const bool padding = lsn_ < padsTo_;
    if (inPage >= pageHeader && padding) {
      step = std::min(step, padsTo_ - lsn_);
    } else if (inPage >= pageHeader && !lost_) {
      step = std::min(step, left_ > 0 ? left_ : kLengthBytes - headBytes_);
    }
    const Bytes taken = bytes.subspan(done, step);
    done += step;
    lsn_ += step;
    if (inPage < pageHeader) {
      std::memcpy(pageHeader_.data() + inPage, taken.data(), step);
      if (inPage + step == pageHeader && !padding) takePageHeader();
    } else if (padding) {
      if (lsn_ == padsTo_) return {done, true};
    } else if (lost_) {
      if (lsn_ % kWalPageBytes == 0) return {done, true};
    } else {
      takeRecord(taken);
      if (!lost_ && headBytes_ >= kLengthBytes && left_ == 0 && finished()) return {done, true};
    }
  }
  return {done, lost_};
}

// A page says itself how much of it belongs to the record before: what was thought is corrected by that.
void WalRecords::takePageHeader() {
  lost_ = false;
  const bool continues = (loadAt<uint16_t>(pageHeader_, 2) & kContinuesRecord) != 0;
  const uint64_t rest = continues ? loadAt<uint32_t>(pageHeader_, 16) : 0;
  if (rest == left_) return;
  left_ = rest;
  // Whatever it is of which this is the rest: its header has been.
  head_.fill(std::byte{0});
  headBytes_ = rest == 0 ? 0 : kHeadBytes;
}

void WalRecords::takeRecord(Bytes bytes) {
  const size_t ofHead = std::min(bytes.size(), kHeadBytes - headBytes_);
  std::memcpy(head_.data() + headBytes_, bytes.data(), ofHead);
  headBytes_ += ofHead;
  if (left_ > 0) {
    left_ -= bytes.size();
  } else if (headBytes_ == kLengthBytes) {
    const auto length = loadAt<uint32_t>(head_, 0);
    lost_ = length < kRecordHeaderBytes || length > kRecordBytesMax;
    if (lost_) headBytes_ = 0;
    else left_ = length - kLengthBytes;
  }
}

// The record's last byte has come. False: padding is to come.
bool WalRecords::finished() {
  // A shorter one is not whole in the head: what is left there is of another one.
  if (headBytes_ < kHeadBytes) std::fill(head_.begin() + static_cast<ptrdiff_t>(headBytes_), head_.end(), std::byte{0});
  appliedAsked_ |= asksForApplied(head_);
  padsTo_ = roundUp(lsn_, isSwitch(head_) ? segmentBytes_ : kRecordAlignment);
  headBytes_ = 0;
  return padsTo_ == lsn_;
}

}  // namespace walship::postgres

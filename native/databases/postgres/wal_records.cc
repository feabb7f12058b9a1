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
      step = std::min(step, left_ > 0 ? left_ : kLengthBytes - headerBytes_);
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
      if (!lost_ && headerBytes_ >= kLengthBytes && left_ == 0 && finished()) return {done, true};
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
  header_.fill(std::byte{0});
  headerBytes_ = rest == 0 ? 0 : kRecordHeaderBytes;
}

void WalRecords::takeRecord(Bytes bytes) {
  const size_t ofHeader = std::min(bytes.size(), kRecordHeaderBytes - headerBytes_);
  std::memcpy(header_.data() + headerBytes_, bytes.data(), ofHeader);
  headerBytes_ += ofHeader;
  if (left_ > 0) {
    left_ -= bytes.size();
  } else if (headerBytes_ == kLengthBytes) {
    const auto length = loadAt<uint32_t>(header_, 0);
    lost_ = length < kRecordHeaderBytes || length > kRecordBytesMax;
    if (lost_) headerBytes_ = 0;
    else left_ = length - kLengthBytes;
  }
}

// The record's last byte has come. False: padding is to come.
bool WalRecords::finished() {
  padsTo_ = roundUp(lsn_, isSwitch(header_) ? segmentBytes_ : kRecordAlignment);
  headerBytes_ = 0;
  return padsTo_ == lsn_;
}

}  // namespace walship::postgres

#include "databases/postgres/wal_cursor.h"

#include "databases/postgres/wal.h"

namespace walship::postgres {

namespace {
// The rest of one, a record that goes on, and the page that it goes on in.
constexpr int kPagesMax = 3;

// Where a frame lies whose payload is in a part.
struct Place {
  uint64_t page = UINT64_MAX;
  uint32_t offset = 0;
};
}  // namespace

Result<WalCursor::Piece> WalCursor::read(uint64_t lsn, uint64_t limit, uint64_t epochMax, size_t bytesMax,
                                         bool ends) {
  Store& store = engine_.store();
  const uint64_t cuts = engine_.pump().cuts();
  if (lsn != nextLsn_ || cuts != cuts_) page_ = UINT64_MAX;
  cuts_ = cuts;
  Piece piece;
  std::vector<Place> places;
  size_t whole = 0;  // up to where the last record ends
  uint64_t at = lsn;
  bool done = false;
  const auto fits = [&] {
    const uint64_t pageEnd = (lsn + piece.bytes) / kWalPageBytes * kWalPageBytes;
    return std::max<size_t>(whole, pageEnd > lsn ? pageEnd - lsn : 0);
  };
  for (int pages = 0; pages < kPagesMax && !done; ++pages) {
    if (page_ == UINT64_MAX) {
      auto page = store.pageOf(at);
      if (!page) return page.error();
      page_ = page.value();
      offset_ = 0;
    }
    Pin pin = store.arena().find(page_, Access::tailRead);
    if (!pin) {
      auto fetched = store.fetch(page_, Access::tailRead);
      if (!fetched) return fetched.error();
      pin = fetched.take();
    }
    uint32_t offset = std::max(offset_, kPageHeaderBytes);
    forEachFrame(pin.bytes(), offset_, pin.filled(), [&](const FrameHeader& header, Bytes payload) {
      done = header.lsn >= limit || piece.bytes >= bytesMax;
      if (done) return false;
      const uint64_t end = header.lsn + header.length;
      if (end > at) {
        piece.newerEpoch = done = header.epoch > epochMax;
        if (done) return false;
        const size_t from = header.lsn < at ? at - header.lsn : 0;
        const size_t step = std::min<uint64_t>(std::min<uint64_t>(header.length, limit - header.lsn) - from,
                                               bytesMax - piece.bytes);
        piece.parts.push_back({const_cast<std::byte*>(payload.data()) + from, step});
        places.push_back({page_, offset});
        piece.bytes += step;
        at += step;
        done = from + step < header.length;
        if (done) return false;
        if ((header.flags & kFrameContinues) == 0) whole = piece.bytes;
      }
      offset += frameBytes(header.length);
      return true;
    });
    pins_.push_back(std::move(pin));
    // Nothing goes on across the beginning of an epoch.
    if (piece.newerEpoch || (ends && at >= limit)) whole = piece.bytes;
    done |= at >= limit || fits() > 0;
    // At the end of a finished page the next byte is in another one.
    if (!done) page_ = UINT64_MAX;
  }
  const size_t bytes = fits();
  while (piece.bytes > bytes && piece.bytes - piece.parts.back().iov_len >= bytes) {
    piece.bytes -= piece.parts.back().iov_len;
    piece.parts.pop_back();
    places.pop_back();
  }
  // The next call begins in the frame that this piece ends in, or behind it.
  Place next;
  if (!places.empty()) {
    piece.parts.back().iov_len -= piece.bytes - bytes;
    next = places.back();
  }
  piece.bytes = bytes;
  page_ = next.page;
  offset_ = next.offset;
  nextLsn_ = lsn + bytes;
  return piece;
}

}  // namespace walship::postgres

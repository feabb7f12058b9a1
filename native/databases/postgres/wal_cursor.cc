#include "databases/postgres/wal_cursor.h"

namespace walship::postgres {

Result<WalCursor::Piece> WalCursor::read(uint64_t lsn, uint64_t limit, uint64_t epochMax, size_t bytesMax) {
  Store& store = engine_.store();
  const uint64_t cuts = engine_.pump().cuts();
  if (lsn != nextLsn_ || cuts != cuts_) page_ = UINT64_MAX;
  cuts_ = cuts;
  for (bool again = true;; again = false) {
    if (page_ == UINT64_MAX) {
      auto page = store.pageOf(lsn);
      if (!page) return page.error();
      page_ = page.value();
      offset_ = 0;
    }
    pin_ = store.arena().find(page_, Access::tailRead);
    if (!pin_) {
      auto fetched = store.fetch(page_, Access::tailRead);
      if (!fetched) return fetched.error();
      pin_ = fetched.take();
    }
    Piece piece;
    uint32_t at = offset_;
    forEachFrame(pin_.bytes(), offset_, pin_.filled(), [&](const FrameHeader& header, Bytes payload) {
      if (header.lsn >= limit || piece.bytes >= bytesMax) return false;
      const uint64_t end = header.lsn + header.length;
      if (end > lsn) {
        piece.newerEpoch = header.epoch > epochMax;
        if (piece.newerEpoch) return false;
        const size_t from = header.lsn < lsn ? lsn - header.lsn : 0;
        const size_t step = std::min<uint64_t>(std::min<uint64_t>(header.length, limit - header.lsn) - from,
                                               bytesMax - piece.bytes);
        // A part of a frame: the next call begins in it again.
        piece.parts.push_back({const_cast<std::byte*>(payload.data()) + from, step});
        piece.bytes += step;
        if (from + step < header.length) return false;
      }
      at = std::max(at, kPageHeaderBytes) + frameBytes(header.length);
      return true;
    });
    offset_ = at;
    nextLsn_ = lsn + piece.bytes;
    if (piece.bytes > 0 || piece.newerEpoch || !again) return piece;
    // At the end of a finished page the next byte is in another one.
    pin_.release();
    page_ = UINT64_MAX;
  }
}

}  // namespace walship::postgres

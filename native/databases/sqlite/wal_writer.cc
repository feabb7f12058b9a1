#include "databases/sqlite/wal_writer.h"

namespace walship {

namespace {
// Written at once: large enough that a system call costs nothing, small enough to stay in the cache.
constexpr size_t kGatherBytes = 64u << 10;
}  // namespace

Result<WalWriter> WalWriter::open(WalIndex& index) {
  WalWriter writer(index);
  auto header = index.readHeader();
  if (!header) return header.error();
  writer.header_ = header.value();
  writer.frames_->store(writer.header_.frames, std::memory_order_relaxed);
  return writer;
}

Result<bool> WalWriter::lock() {
  WalIndexHeader current;
  auto locked = index_->lockWrite(current);
  if (!locked || !locked.value()) return locked;
  // Others may checkpoint, and restart the WAL after it, which changes nothing of the content; and may have had to
  // recover the wal-index, which counts its changes anew.
  const bool restarted = current.frames == 0 && current.salts != header_.salts;
  const bool same = current.frames == header_.frames && current.salts == header_.salts &&
                    (current.frames == 0 || current.frameSum == header_.frameSum);
  if (!restarted && !same) {
    index_->unlockWrite();
    return fileError("WALSHIP_ERR_SQLITE_FOREIGN_WRITE",
                     "another program has written to this standby's database: its WAL ends at frame " +
                         std::to_string(current.frames) + ", walship's last one was " +
                         std::to_string(header_.frames) + "; give this node a new snapshot of the primary",
                     index_->databasePath());
  }
  header_ = current;
  frames_->store(header_.frames, std::memory_order_relaxed);
  return true;
}

Result<bool> WalWriter::begin(uint32_t pageBytes) {
  WALSHIP_ASSERT(isSqlitePageBytes(pageBytes));
  auto locked = lock();
  if (!locked || !locked.value()) return locked;
  next_ = header_;
  pageBytes_ = pageBytes;
  pages_.clear();
  gathered_.clear();
  gatheredFrames_ = writtenFrames_ = 0;
  Result<void> ready;
  if (header_.frames == 0) {
    ready = beginFile();
  } else if (header_.pageBytes() != pageBytes) {
    ready = fileError("WALSHIP_ERR_SQLITE_PAGE_SIZE",
                      "the WAL holds pages of " + std::to_string(header_.pageBytes()) + " bytes, not of " +
                          std::to_string(pageBytes),
                      index_->walPath());
  }
  if (ready) return true;
  index_->unlockWrite();
  return ready.error();
}

// The header of a new generation, synced before any frame: a power loss must not leave new frames under an old header.
Result<void> WalWriter::beginFile() {
  auto old = index_->fileHeader();
  if (!old) return old.error();
  WalFileHeader file;
  file.pageBytes = pageBytes_;
  file.checkpoints = old.value() ? old.value()->checkpoints + 1 : 0;
  // A restart has chosen new ones already.
  file.salts = header_.salts;
  if (!old.value() || file.salts == WalSalts{} || file.salts == old.value()->salts) {
    sqlite3_randomness(sizeof file.salts, file.salts.data());
  }
  std::array<std::byte, kWalHeaderBytes> bytes;
  encodeWalFileHeader(file, bytes);
  if (auto written = index_->writeWal(bytes, 0); !written) return written;
  if (auto synced = index_->syncWal(); !synced) return synced;
  next_.salts = file.salts;
  next_.frameSum = file.sum;
  next_.bigEndianSums = 0;
  return {};
}

Result<void> WalWriter::append(uint32_t page, Bytes image) {
  WALSHIP_ASSERT(begun() && page != 0 && image.size() == pageBytes_);
  if (gathered_.size() >= kGatherBytes) {
    if (auto flushed = flush(0); !flushed) return flushed;
  }
  const size_t at = gathered_.size();
  gathered_.resize(at + kWalFrameHeaderBytes + pageBytes_);
  std::memcpy(gathered_.data() + at + kWalFrameHeaderBytes, image.data(), image.size());
  pages_.push_back(page);
  ++gatheredFrames_;
  return {};
}

// Writes the gathered frames: all but the last one, of which it is not known yet whether it ends the transaction, or,
// with `commitPages`, all of them.
Result<void> WalWriter::flush(uint32_t commitPages) {
  const size_t frameBytes = kWalFrameHeaderBytes + pageBytes_;
  const uint32_t count = commitPages == 0 ? gatheredFrames_ - 1 : gatheredFrames_;
  for (uint32_t i = 0; i < count; ++i) {
    const MutableBytes frame = MutableBytes(gathered_).subspan(i * frameBytes, frameBytes);
    const uint32_t dbPages = i + 1 == gatheredFrames_ ? commitPages : 0;
    encodeWalFrameHeader(pages_[writtenFrames_ + i], dbPages, next_.salts, next_.bigEndianSums != 0,
                         frame.subspan(kWalFrameHeaderBytes), next_.frameSum, frame.first(kWalFrameHeaderBytes));
  }
  const uint64_t offset = walFrameOffset(header_.frames + writtenFrames_ + 1, pageBytes_);
  if (auto written = index_->writeWal(Bytes(gathered_).first(count * frameBytes), offset); !written) return written;
  gathered_.erase(gathered_.begin(), gathered_.begin() + static_cast<ptrdiff_t>(count * frameBytes));
  gatheredFrames_ -= count;
  writtenFrames_ += count;
  return {};
}

Result<void> WalWriter::commit(uint32_t databasePages) {
  WALSHIP_ASSERT(begun() && !pages_.empty() && databasePages != 0);
  Result<void> done = flush(databasePages);
  for (size_t i = 0; done && i < pages_.size(); ++i) {
    done = index_->addFrame(header_.frames + static_cast<uint32_t>(i) + 1, pages_[i], header_);
  }
  if (done) {
    next_.setPageBytes(pageBytes_);
    next_.frames = header_.frames + static_cast<uint32_t>(pages_.size());
    next_.dbPages = databasePages;
    ++next_.change;
    index_->publish(next_);
    header_ = next_;
    frames_->store(header_.frames, std::memory_order_relaxed);
  }
  index_->unlockWrite();
  return done;
}

void WalWriter::abandon() { index_->unlockWrite(); }

Result<bool> WalWriter::restart() {
  auto locked = lock();
  if (!locked || !locked.value()) return locked;
  auto restarted = index_->restart(header_);
  frames_->store(header_.frames, std::memory_order_relaxed);
  index_->unlockWrite();
  return restarted;
}

}  // namespace walship

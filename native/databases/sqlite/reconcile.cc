// How the applier brings the database to the log's state: after a crash, a cut of the log, a change of role.
//
// Page images are absolute, so applying again what is applied already does no harm as long as it becomes visible in one
// piece: everything behind the last position that is surely durable goes into one commit.
#include "databases/sqlite/applier.h"

namespace walship {

void Applier::awaitSnapshot(std::vector<uint64_t> files) {
  applied_.store(0);
  engine_.pump().setApplied(0, cuts_);
  unsettled_ = std::move(files);
  snapshotNeeded_ = true;
  snapshotNeededSeen_.store(true);
  // Nothing of what the log holds now is needed; what a snapshot begins with is held when it comes.
  if (auto removed = engine_.readers().remove(engine_.settings().nodeId); !removed) problem(removed.error());
}

Result<void> Applier::reconcile() {
  generation_.store(generation_.load() | 1);  // odd until it is done: the sidecar must not be told an old position
  const SidecarState state = sidecar_->state();
  const uint64_t flushed = engine_.store().flushedLsn();
  snapshotNeeded_ = false;
  unsettled_.reset();
  snapshotNeededSeen_.store(false);
  auto first = firstRecordStart(engine_);
  if (!first) return first.error();
  const uint64_t firstLsn = first.value().value_or(flushed);

  std::optional<Error> why;
  LostPages lost;
  uint64_t start = firstLsn;
  auto found = findLostPages(engine_, state, *index_, lost);
  if (state.role == SidecarRole::none) {
    why = makeError("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED", "this node's database has never had a snapshot of the primary's");
  } else {
    if (found) {
      const uint64_t from = std::min(state.appliedLsn, lost.fromLsn);
      if (from < firstLsn || from > flushed) {
        why = makeError("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED",
                        "the database is at LSN " + std::to_string(from) + ", and the log holds LSN " +
                            std::to_string(firstLsn) + " to " + std::to_string(flushed));
      } else if (lost.any()) {
        auto begin = transactionBefore(engine_, from);
        if (!begin) return begin.error();
        start = begin.value().value_or(firstLsn);
      } else {
        start = from;
      }
    } else if (found.error().is("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED")) {
      why = found.error();
    } else {
      return found.error();
    }
  }
  if (!why) {
    auto done = reconcileTo(start, flushed, lost);
    if (!done && !done.error().is("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED")) return done;
    if (!done) why = done.error();
  }
  if (why) {
    reader_.seek(firstLsn);
    awaitSnapshot(std::move(lost.files));
    // A node that has just been added waits for its first snapshot: that is no problem.
    if (state.role != SidecarRole::none) problem(*why);
  }
  generation_.fetch_add(1);
  return {};
}

// One commit of what was lost, as it was before, and of every transaction that is whole in [startLsn, flushed).
Result<void> Applier::reconcileTo(uint64_t startLsn, uint64_t flushed, const LostPages& lost) {
  struct End {
    uint64_t lsn;
    uint32_t databasePages;
    uint32_t pageBytes;
    uint64_t commitUs;
  };
  std::optional<End> end;
  std::set<uint32_t> covered;
  std::vector<uint32_t> open;
  reader_.seek(startLsn);
  while (true) {
    auto record = reader_.next(flushed);
    if (!record) return record.error();
    if (!record.value()) break;
    const PageRecordHeader& header = record.value()->view.header();
    if (header.first() || header.copy()) open.clear();
    if (lost.any() && !header.copy()) {
      for (uint32_t i = 0; i < header.pageCount; ++i) open.push_back(record.value()->view.page(i));
    }
    if (!header.state()) continue;
    covered.insert(open.begin(), open.end());
    end = {record.value()->endLsn, header.databasePages, header.pageBytes, header.commitUs};
  }

  uint64_t appliedTo = startLsn;
  if (end) {
    std::set<uint32_t> pages;
    for (const uint32_t page : lost.pages) {
      if (page <= end->databasePages && !covered.contains(page)) pages.insert(page);
    }
    for (uint64_t page = uint64_t{lost.databasePagesMin} + 1; page <= end->databasePages; ++page) {
      if (!covered.contains(static_cast<uint32_t>(page))) pages.insert(static_cast<uint32_t>(page));
    }
    auto begun = begin(end->pageBytes);
    if (!begun || !begun.value()) return begun ? Result<void>() : begun.error();
    Result<void> done = restorePages(engine_, std::move(pages), end->lsn,
                                     [&](uint32_t page, Bytes image) { return writer_->append(page, image); });
    reader_.seek(startLsn);
    while (done && reader_.lsn() < end->lsn) {
      auto record = reader_.next(end->lsn);
      if (!record) {
        done = record.error();
      } else if (!record.value()) {
        break;
      } else if (!record.value()->view.header().copy()) {
        done = appendPages(record.value()->view);
      }
    }
    if (!done || writer_->appended() == 0) {
      writer_->abandon();
      if (!done) return done;
    } else {
      if (auto committed = writer_->commit(end->databasePages); !committed) return committed;
      commits_.fetch_add(1, std::memory_order_relaxed);
    }
    appliedTo = end->lsn;
    appliedUs_.store(end->commitUs, std::memory_order_relaxed);
  } else if (lost.any()) {
    return makeError("WALSHIP_ERR_SQLITE_SNAPSHOT_NEEDED", "the log holds no whole transaction to go back to");
  }
  if (auto settled = settle(appliedTo, lost.files); !settled) return settled;
  reader_.seek(appliedTo);
  applied(appliedTo);
  return {};
}

}  // namespace walship

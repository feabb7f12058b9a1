#include "replication/copies.h"

namespace walship {

namespace {

bool within(const PageRange& range, uint64_t page) { return page >= range.first && page < range.end; }

// Pinned, if all of it is there and will not change any more.
Pin completeInMemory(Store& store, uint64_t page) {
  Pin pin = store.arena().find(page, Access::scrub);
  if (pin && !pin.finished()) pin.release();
  return pin;
}

}  // namespace

PageRange completePages(Store& store) {
  const LogPosition flushed = store.lastFlushedFrame();
  const uint64_t first = store.log().firstPage();
  return {first, std::max(first, flushed.page)};
}

Result<std::vector<PageCopies>> copiesOf(Store& store, uint64_t first, uint32_t count, Places places,
                                         const GiveWay& giveWay) {
  const auto record = NodeRecordFile::load(store.log().settings().dir);
  if (!record) return record.error();
  const PageRange range = completePages(store);
  const EpochHistory& history = record.value().history;
  std::vector<PageCopies> copies(count);
  Buffer bytes(store.geometry().pageBytes);
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t page = first + i;
    if (!within(range, page)) continue;
    giveWay(bytes.size());
    store.log().readRaw(page, 0, bytes);
    copies[i].disk = examine(bytes, store.geometry(), page, history);
    if (places == Places::disk) continue;
    if (const Pin pin = completeInMemory(store, page)) copies[i].memory = examine(pin.bytes(), store.geometry(), page, history);
  }
  // What was trimmed or cut under the look at it, is not damaged: it is gone.
  const PageRange still = completePages(store);
  for (uint32_t i = 0; i < count; ++i) {
    if (!within(still, first + i)) copies[i] = {};
  }
  return copies;
}

Buffer pageInMemory(Store& store, uint64_t page) {
  Buffer bytes;
  if (const Pin pin = completeInMemory(store, page)) put(bytes, pin.bytes());
  return bytes;
}

PageReply replyTo(const PageQuery& query, Store& store, const GiveWay& giveWay) {
  PageReply reply{query.id, query.question, {}, {}};
  if (query.question == PageQuestion::copies) {
    // What cannot be told counts as not there: the asker has others to ask.
    const auto copies = copiesOf(store, query.page, query.count, Places::disk, giveWay);
    reply.copies.resize(query.count);
    for (uint32_t i = 0; copies && i < query.count; ++i) reply.copies[i] = copies.value()[i].disk;
  } else if (within(completePages(store), query.page) && query.offset + query.count <= store.geometry().pageBytes) {
    giveWay(query.count);
    reply.bytes.resize(query.count);
    store.log().readRaw(query.page, query.offset, reply.bytes);
  }
  return reply;
}

}  // namespace walship

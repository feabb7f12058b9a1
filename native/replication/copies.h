// The copies that this node has of complete pages: on its disk, and of some in memory. Blocks for the disk; any thread but
// the pump.
#pragma once

#include <functional>

#include "replication/messages.h"
#include "replication/store.h"

namespace walship {

struct PageCopies {
  PageCopy disk;
  PageCopy memory;  // absent: not in the arena, which is no fault
};

// Complete pages that are flushed: [first, end).
struct PageRange {
  uint64_t first = 0;
  uint64_t end = 0;
};

PageRange completePages(Store& store);
// Called before so many bytes are read and checked; may wait.
using GiveWay = std::function<void(size_t)>;
enum class Places : uint8_t { disk, diskAndMemory };
// Of pages `first` to `first + count − 1`; absent where this node has none.
Result<std::vector<PageCopies>> copiesOf(Store& store, uint64_t first, uint32_t count, Places places, const GiveWay& giveWay);
// The whole page as it is in memory; empty if it is not there.
Buffer pageInMemory(Store& store, uint64_t page);
PageReply replyTo(const PageQuery& query, Store& store, const GiveWay& giveWay);

}  // namespace walship

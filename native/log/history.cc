#include "log/history.h"

#include <algorithm>

#include "log/files.h"

namespace walship {

namespace {

constexpr uint32_t kEpochStartsMax = 1u << 20;

StateFile fileIn(const std::string& dir) {
  return {dir, "epochs", 0x31455357 /* "WSE1" */, 24 + kEpochStartsMax * 16,
          "restore this node from another one with a fresh directory"};
}

// Where the epoch of history[index] ends.
uint64_t endOf(const EpochHistory& history, size_t index, uint64_t tailLsn) {
  return index + 1 < history.size() ? std::min(history[index + 1].firstLsn, tailLsn) : tailLsn;
}

}  // namespace

uint64_t commonLsn(const EpochHistory& ours, uint64_t ourTailLsn, const EpochHistory& theirs,
                   uint64_t theirTailLsn) {
  const uint64_t shorter = std::min(ourTailLsn, theirTailLsn);
  if (ours.empty() || theirs.empty()) return shorter;
  size_t our = ours.size();
  size_t their = theirs.size();
  while (our > 0 && their > 0) {
    const EpochStart& a = ours[our - 1];
    const EpochStart& b = theirs[their - 1];
    if (a == b) return std::min(endOf(ours, our - 1, ourTailLsn), endOf(theirs, their - 1, theirTailLsn));
    if (a.epoch >= b.epoch) --our;
    if (b.epoch >= a.epoch) --their;
  }
  // Not one epoch in common: they can only agree on what lies before the first epoch of either.
  return std::min({shorter, ours.front().firstLsn, theirs.front().firstLsn});
}

Result<NodeRecord> NodeRecordFile::load(const std::string& dir) {
  const StateFile file = fileIn(dir);
  auto loaded = file.load();
  if (!loaded) return loaded.error();
  NodeRecord record;
  if (!loaded.value()) return record;
  FieldReader fields(*loaded.value());
  record.promisedEpoch = fields.take<uint64_t>();
  record.protectedLsn = fields.take<uint64_t>();
  const auto count = fields.take<uint64_t>();
  if (count > kEpochStartsMax) return file.damaged("it claims " + std::to_string(count) + " epochs");
  for (uint64_t index = 0; index < count && !fields.failed(); ++index) {
    const EpochStart start{fields.take<uint64_t>(), fields.take<uint64_t>()};
    if (!record.history.empty() &&
        (start.epoch <= record.history.back().epoch || start.firstLsn < record.history.back().firstLsn)) {
      return file.damaged("its epochs are out of order");
    }
    record.history.push_back(start);
  }
  if (!fields.complete()) return file.damaged("its length does not match");
  return record;
}

Result<void> NodeRecordFile::store(const std::string& dir, const NodeRecord& record) {
  WALSHIP_ASSERT(record.history.size() <= kEpochStartsMax);
  std::vector<std::byte> payload;
  appendField(payload, record.promisedEpoch);
  appendField(payload, record.protectedLsn);
  appendField(payload, uint64_t{record.history.size()});
  for (size_t index = 0; index < record.history.size(); ++index) {
    const EpochStart& start = record.history[index];
    WALSHIP_ASSERT(index == 0 || (start.epoch > record.history[index - 1].epoch &&
                                  start.firstLsn >= record.history[index - 1].firstLsn));
    appendField(payload, start.epoch);
    appendField(payload, start.firstLsn);
  }
  return fileIn(dir).store(payload);
}

}  // namespace walship

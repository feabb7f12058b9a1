#include "replication/commit_rule.h"

#include <algorithm>
#include <functional>

namespace walship {

namespace {

uint64_t at(CommitLevel level, const Positions& positions) {
  switch (level) {
    case CommitLevel::received: return positions.received;
    case CommitLevel::flushed: return positions.flushed;
    case CommitLevel::applied: return positions.applied;
    case CommitLevel::async: break;
  }
  return positions.flushed;
}

}  // namespace

std::optional<uint64_t> committedBy(const CommitRule& rule, const Positions& primary,
                                    const std::vector<StandbyPositions>& standbys) {
  const uint64_t own = needsOwnDisk(rule) ? primary.flushed : primary.received;
  if (rule.level == CommitLevel::async) return own;

  std::vector<uint64_t> positions;
  if (rule.nodeKeys.empty()) {
    for (const auto& standby : standbys) positions.push_back(at(rule.level, standby.positions));
  } else {
    for (const uint64_t key : rule.nodeKeys) {
      const auto found = std::find_if(standbys.begin(), standbys.end(), [&](const auto& each) { return each.nodeKey == key; });
      if (found == standbys.end()) continue;
      positions.push_back(at(rule.level, found->positions));
      if (rule.choice == CommitChoice::first && positions.size() == rule.count) break;
    }
  }
  if (positions.size() < rule.count) return std::nullopt;
  std::nth_element(positions.begin(), positions.begin() + (rule.count - 1), positions.end(), std::greater<>());
  return std::min(own, positions[rule.count - 1]);
}

}  // namespace walship

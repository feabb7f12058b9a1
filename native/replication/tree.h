// Everything known of the nodes below this one: who they are, and how far they are. Pump thread only.
#pragma once

#include <algorithm>
#include <map>
#include <utility>

#include "replication/commit_rule.h"

namespace walship {

struct TreeNode {
  Describe description;
  uint64_t epoch = 0;  // in which the node vouches for its positions
  Positions positions;
  const void* via = nullptr;  // the session through which it reports
  uint64_t heardNs = 0;
  // For the detection of a stall: when one of its positions last moved.
  uint64_t movedNs = 0;
  bool stalled = false;
};

class Tree {
 public:
  // A node that reported through another session has moved here. false: too many nodes.
  bool describe(const Describe& description, const void* via) {
    auto [entry, isNew] = nodes_.try_emplace(description.nodeKey);
    if (isNew && nodes_.size() > kSubtreeNodesMax - 1) {
      nodes_.erase(entry);
      return false;
    }
    entry->second.description = description;
    entry->second.via = via;
    ++version_;
    return true;
  }
  // false: a node nobody has described. What an old session still says of a node that has moved is passed over.
  bool update(const AckEntry& entry, const void* via, uint64_t nowNs) {
    const auto found = nodes_.find(entry.nodeKey);
    if (found == nodes_.end()) return false;
    TreeNode& node = found->second;
    if (node.via != via) return true;
    if (node.positions != entry.positions || node.movedNs == 0) {
      node.movedNs = nowNs;
      moved_ = true;
    }
    moved_ |= node.epoch != entry.epoch;
    node.positions = entry.positions;
    node.epoch = entry.epoch;
    node.heardNs = nowNs;
    return true;
  }
  // An Ack names every node of the subtree: those it no longer names have left.
  void keepOnly(const std::vector<AckEntry>& entries, const void* via) {
    const size_t gone = std::erase_if(nodes_, [&](const auto& item) {
      return item.second.via == via && std::none_of(entries.begin(), entries.end(), [&](const AckEntry& entry) {
               return entry.nodeKey == item.first;
             });
    });
    if (gone > 0) ++version_;
  }
  void dropVia(const void* via) {
    if (std::erase_if(nodes_, [&](const auto& item) { return item.second.via == via; }) > 0) ++version_;
    horizons_.erase(via);
  }
  void setHorizon(const Horizon& horizon, const void* via) { horizons_[via] = horizon; }
  Horizon horizon() const {
    Horizon all;
    for (const auto& [via, horizon] : horizons_) all.include(horizon);
    return all;
  }

  std::map<uint64_t, TreeNode>& nodes() { return nodes_; }
  const std::map<uint64_t, TreeNode>& nodes() const { return nodes_; }
  uint64_t version() const { return version_; }  // grows when nodes come, go or describe themselves anew
  bool takeMoved() { return std::exchange(moved_, false); }  // whether a position moved since the last call

  // What counts for a commit in `epoch`: the positions that nodes vouch for in that very epoch. A node that has not
  // noted it yet may still lose, to a newer epoch that never was acknowledged anywhere else, what it received in older ones.
  std::vector<StandbyPositions> vouchedIn(uint64_t epoch) const {
    std::vector<StandbyPositions> all;
    all.reserve(nodes_.size());
    for (const auto& [key, node] : nodes_) {
      if (node.epoch == epoch) all.push_back({key, node.positions});
    }
    return all;
  }

 private:
  std::map<uint64_t, TreeNode> nodes_;
  std::map<const void*, Horizon> horizons_;  // by session
  uint64_t version_ = 1;
  bool moved_ = false;
};

}  // namespace walship

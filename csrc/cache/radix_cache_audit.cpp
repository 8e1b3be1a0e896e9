// The part of RadixCache that tells how it stands.

#include <set>

#include "cache/radix_cache.h"

namespace llamaherd {

void RadixCache::fill(CacheMetrics& metrics) const {
  metrics = metrics_;
  metrics.n_holders = options_.n_holders;
  metrics.n_holders_used = options_.n_holders - holders_.n_free();
  metrics.n_pins = static_cast<std::int32_t>(pins_.size());
  metrics.n_cells_reclaimable = n_held_ - n_running_;
  metrics.n_bytes_ram = store_->n_ram_bytes();
  metrics.n_bytes_disk = store_->n_disk_bytes();
}

std::vector<PrefixCache::ExpectedLength> RadixCache::expected_lengths() const {
  std::vector<ExpectedLength> expected_lengths;
  for (SeqId seq = 0; seq < options_.n_seqs; ++seq) {
    const SequenceState& live = live_[seq];
    expected_lengths.push_back({seq, live.node != nullptr ? live.node->end() : live.n_private});
  }
  std::map<SeqId, Pos> holders;
  for (SeqId i = 0; i < options_.n_holders; ++i) holders[options_.first_holder + i] = 0;
  tree_.for_each([&](const Node& node) {
    if (node.payload.holder != kNoSeq) holders[node.payload.holder] = node.payload.holder_end;
  });
  for (const auto& [holder, length] : holders) expected_lengths.push_back({holder, length});
  return expected_lengths;
}

std::vector<std::string> RadixCache::violations() const {
  std::vector<std::string> found;
  const auto expect = [&found](bool ok, const Node& node, const char* rule) {
    if (!ok) {
      found.push_back("node [" + std::to_string(node.begin) + ", " + std::to_string(node.end()) +
                      "): " + rule);
    }
  };
  std::int64_t n_held = 0, n_running = 0, n_nodes = 0, n_ram_bytes = 0;
  std::set<SeqId> holders;
  std::set<const KvBlock*> blocks;
  tree_.for_each([&](const Node& node) {
    const NodeState& h = node.payload;
    std::int32_t n_held_children = 0;
    auto n_running_here = static_cast<std::int32_t>(h.attached.size());
    for (const auto& [token, child] : node.children) {
      expect(child->parent == &node && child->begin == node.end() && child->tokens[0] == token,
             *child, "hangs in the wrong place");
      n_held_children += child->payload.held;
      n_running_here += child->payload.n_running;
    }
    expect(h.n_running == n_running_here, node, "its count of running sequences is wrong");
    for (const SeqId seq : h.attached) expect(live_[seq].node == &node, node, "a stray sequence");
    expect(h.n_held_children == n_held_children, node, "its count of held children is wrong");
    if (node.is_root()) {
      expect(!node.children.empty() || h.n_running > 0, node, "an empty root");
      return;
    }
    ++n_nodes;
    expect(node.length() > 0, node, "an empty edge");
    const bool parent_held = node.parent->is_root() || node.parent->payload.held;
    expect(!h.held || parent_held, node, "held below what is not");
    expect(h.held || h.attached.empty(), node, "runs, but is not held");
    const bool is_evictable = h.held && h.n_running == 0 && n_held_children == 0;
    expect(evictable_.contains(h.rank) == is_evictable, node, "wrongly filed for eviction");
    const bool is_stored_leaf = !h.held && !h.ghost() && !has_stored_child(&node);
    expect(stored_leaves_.contains(h.rank) == is_stored_leaf, node, "wrongly filed as stored");
    expect(ghosts_.contains(h.rank) == h.ghost(), node, "wrongly filed as a ghost");
    expect(h.ghost() || !node.parent->payload.ghost() || node.parent->is_root(), node,
           "below a ghost, but none");
    if (h.held) {
      n_held += node.length();
      if (h.n_running > 0) n_running += node.length();
      if (is_evictable)
        expect(h.holder != kNoSeq && h.holder_end == node.end(), node, "held by nobody");
      for (const auto& block : h.blocks) expect(block->file != 0, node, "held in memory as well");
    } else if (!h.ghost()) {
      Pos covered = node.begin;
      for (const auto& block : h.blocks) {
        if (block->begin <= covered) covered = block->end;
        if (blocks.insert(block.get()).second) {
          n_ram_bytes += static_cast<std::int64_t>(block->bytes.size());
        }
      }
      expect(covered >= node.end(), node, "stored, but its data is not");
    }
    if (h.holder != kNoSeq) {
      expect(holders.insert(h.holder).second && holders_.in_use(h.holder), node,
             "shares its holder");
      expect(h.held && n_held_children == 0, node, "has a holder it does not need");
    }
  });
  const auto expect_equal = [&found](std::int64_t a, std::int64_t b, const char* what) {
    if (a != b) {
      found.push_back(std::string(what) + ": " + std::to_string(a) + " != " + std::to_string(b));
    }
  };
  expect_equal(n_held, n_held_, "cells held, summed vs counted");
  expect_equal(n_running, n_running_, "cells of running sequences, summed vs counted");
  expect_equal(n_nodes, metrics_.n_nodes, "nodes");
  expect_equal(static_cast<std::int64_t>(holders.size()), options_.n_holders - holders_.n_free(),
               "holders, found vs counted");
  expect_equal(n_ram_bytes, store_->n_ram_bytes(), "bytes in host memory, summed vs counted");
  return found;
}

}  // namespace llamaherd

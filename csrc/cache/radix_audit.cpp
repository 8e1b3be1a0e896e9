#include "cache/radix_audit.h"

#include <map>
#include <set>
#include <utility>

namespace llamaherd::radix_audit {
namespace {

/// Checks each node by itself and against its neighbours, and sums up what RadixState counts.
class Audit {
 public:
  Audit(const RadixState& state, const SequenceIdPool& holders)
      : state_(state), holders_(holders) {}

  void check(const RadixNode& node) {
    check_children(node);
    if (node.is_root()) {
      expect(!node.children.empty() || node.payload.n_running > 0, node, "an empty root");
      return;
    }
    ++n_nodes_;
    check_state(node);
    check_orders(node);
    check_holder(node);
    if (node.payload.held) check_cells(node);
    if (node.payload.stored()) check_data(node);
  }

  std::vector<std::string> result(std::int64_t n_ram_bytes) && {
    expect_equal(n_held_, state_.n_held(), "cells held, summed vs counted");
    expect_equal(n_running_, state_.n_running(), "cells of running sequences, summed vs counted");
    expect_equal(n_nodes_, state_.n_nodes(), "nodes, found vs counted");
    expect_equal(static_cast<std::int64_t>(found_holders_.size()),
                 holders_.n_seqs() - holders_.n_free(), "holders, found vs counted");
    expect_equal(n_bytes_, n_ram_bytes, "bytes in host memory, summed vs counted");
    return std::move(violations_);
  }

 private:
  void check_children(const RadixNode& node) {
    const RadixNodeState& h = node.payload;
    std::int32_t n_held_children = 0;
    auto n_running = static_cast<std::int32_t>(h.attached.size());
    for (const auto& [token, child] : node.children) {
      expect(child->parent == &node && child->begin == node.end() && child->tokens[0] == token,
             *child, "its link from the parent is wrong");
      n_held_children += child->payload.held;
      n_running += child->payload.n_running;
    }
    expect(h.n_held_children == n_held_children, node, "its count of held children is wrong");
    expect(h.n_running == n_running, node, "its count of running sequences is wrong");
    for (const SeqId seq : h.attached) {
      expect(state_.sequence(seq).node == &node, node, "a sequence is not attached here");
    }
  }

  void check_state(const RadixNode& node) {
    const RadixNodeState& h = node.payload;
    const RadixNode& parent = *node.parent;
    expect(node.length() > 0, node, "an empty edge");
    expect(!h.held || parent.is_root() || parent.payload.held, node, "held, but its parent is not");
    expect(h.ghost() || parent.is_root() || !parent.payload.ghost(), node,
           "not a ghost, but its parent is");
    expect(h.held || h.attached.empty(), node, "has running sequences, but is not held");
  }

  void check_orders(const RadixNode& node) {
    const RadixNodeState& h = node.payload;
    expect(state_.evictable().contains(h.rank) == h.evictable(), node,
           "wrong in the order of evictable leaves");
    expect(state_.stored_leaves().contains(h.rank) == (h.stored() && !has_cached_child(node)), node,
           "wrong in the order of stored leaves");
    expect(state_.ghosts().contains(h.rank) == h.ghost(), node, "wrong in the order of ghosts");
  }

  void check_holder(const RadixNode& node) {
    const RadixNodeState& h = node.payload;
    if (h.evictable()) {
      expect(h.holder != kNoSeq && h.holder_end == node.end(), node,
             "no sequence id holds all of it");
    }
    if (h.holder == kNoSeq) return;
    expect(found_holders_.insert(h.holder).second && holders_.in_use(h.holder), node,
           "its holder is free or another node's");
    expect(h.held && h.n_held_children == 0, node, "has a holder that it does not need");
  }

  void check_cells(const RadixNode& node) {
    n_held_ += node.length();
    if (node.payload.n_running > 0) n_running_ += node.length();
    for (const auto& block : node.payload.blocks) {
      expect(block->file != 0, node, "held, with a copy in host memory");
    }
  }

  void check_data(const RadixNode& node) {
    Pos covered = node.begin;
    for (const auto& block : node.payload.blocks) {
      if (block->begin <= covered) covered = block->end;
      if (found_blocks_.insert(block.get()).second) {
        n_bytes_ += static_cast<std::int64_t>(block->bytes.size());
      }
    }
    expect(covered >= node.end(), node, "stored, but its blocks do not cover it");
  }

  void expect(bool ok, const RadixNode& node, const char* rule) {
    if (ok) return;
    violations_.push_back("node [" + std::to_string(node.begin) + ", " +
                          std::to_string(node.end()) + "): " + rule);
  }

  void expect_equal(std::int64_t a, std::int64_t b, const char* what) {
    if (a == b) return;
    violations_.push_back(std::string(what) + ": " + std::to_string(a) +
                          " != " + std::to_string(b));
  }

  const RadixState& state_;
  const SequenceIdPool& holders_;
  std::vector<std::string> violations_;
  std::set<SeqId> found_holders_;
  std::set<const KvBlock*> found_blocks_;
  std::int64_t n_held_ = 0;
  std::int64_t n_running_ = 0;
  std::int64_t n_nodes_ = 0;
  std::int64_t n_bytes_ = 0;
};

}  // namespace

std::vector<PrefixCache::ExpectedLength> expected_lengths(const RadixState& state,
                                                          const SequenceIdPool& holders) {
  std::vector<PrefixCache::ExpectedLength> lengths;
  for (const RadixState::Sequence& s : state.sequences()) {
    const auto seq = static_cast<SeqId>(lengths.size());
    lengths.push_back({seq, s.node != nullptr ? s.node->end() : s.n_private});
  }
  std::map<SeqId, Pos> held;
  for (SeqId i = 0; i < holders.n_seqs(); ++i) held[holders.first() + i] = 0;
  state.tree().for_each([&held](const RadixNode& node) {
    if (node.payload.holder != kNoSeq) held[node.payload.holder] = node.payload.holder_end;
  });
  for (const auto& [holder, length] : held) lengths.push_back({holder, length});
  return lengths;
}

std::vector<std::string> violations(const RadixState& state, const SequenceIdPool& holders,
                                    std::int64_t n_ram_bytes) {
  Audit audit(state, holders);
  state.tree().for_each([&audit](const RadixNode& node) { audit.check(node); });
  return std::move(audit).result(n_ram_bytes);
}

}  // namespace llamaherd::radix_audit

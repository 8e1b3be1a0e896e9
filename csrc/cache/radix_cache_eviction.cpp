// The part of RadixCache that decides what goes, in which order, and where to.
//
// Cells are taken from the tails of held leaves that nobody who runs needs, the lowest score (see
// ReuseModel) first, what is pinned last; a path is so cut back towards its branch point and what
// is left of it stays of use. Holders are taken from the leaf that is worth least for the one it
// costs. What leaves the KV cache goes to host memory, from there to files; each tier forgets by
// the same score, leaves first. What no tier has is a ghost for as long as its usage may matter.

#include <algorithm>
#include <cmath>

#include "cache/radix_cache.h"

namespace llamaherd {
namespace {

// Cells are freed in pieces: a step's eviction should last for a few steps.
constexpr Pos kEvictedPiece = 64;

// As many tokens of ghosts as make up about the time between two uses.
constexpr std::int64_t kGhostsPerCell = 16;

}  // namespace

void RadixCache::unfile(Node* node) {
  const Rank rank = node->payload.rank;
  evictable_.erase(rank);
  stored_leaves_.erase(rank);
  in_ram_.erase(rank);
  if (ghosts_.erase(rank) > 0) n_ghost_tokens_ -= node->length();
}

/// To be called whenever what decides about a node's place has changed.
void RadixCache::refile(Node* node) {
  unfile(node);
  if (node->is_root()) return;
  NodeState& h = node->payload;
  h.rank = {h.ghost() ? h.ghost_since : h.usage.score, h.id};
  if (h.held) {
    if (h.n_running == 0 && h.n_held_children == 0) evictable_.emplace(h.rank, node);
  } else if (h.ghost()) {
    ghosts_.emplace(h.rank, node);
    n_ghost_tokens_ += node->length();
  } else {
    if (!has_stored_child(node)) stored_leaves_.emplace(h.rank, node);
    const bool in_ram = std::ranges::any_of(
        h.blocks, [](const auto& block) { return block->file == 0 || !block->bytes.empty(); });
    if (in_ram) in_ram_.emplace(h.rank, node);
  }
}

bool RadixCache::has_stored_child(const Node* node) {
  return std::ranges::any_of(node->children,
                             [](const auto& child) { return !child.second->payload.ghost(); });
}

void RadixCache::set_held(Node* node, bool held) {
  NodeState& h = node->payload;
  NodeState& parent = node->parent->payload;
  h.held = held;
  parent.n_held_children += held ? 1 : -1;
  const std::int32_t n = held ? node->length() : -node->length();
  n_held_ += n;
  if (h.n_running > 0) n_running_ += n;
  if (held) {
    model_.advance(node->length());
    // What keeps the parent keeps it through the child from now on.
    h.holder = std::exchange(parent.holder, kNoSeq);
    h.holder_end = std::exchange(parent.holder_end, 0);
    std::erase_if(h.blocks, [](const auto& block) { return block->file == 0; });
    for (const auto& block : h.blocks) store_->drop_bytes(*block);
  }
  refile(node->parent);
  refile(node);
}

void RadixCache::mark_pins() {
  ++pin_round_;
  for (const auto& [name, pin] : pins_) {
    const Tree::Match found = tree_.find(pin.space, pin.tokens);
    if (found.n == 0) continue;
    Pos end = found.n;
    for (Node* node = found.node; !node->is_root(); node = node->parent) {
      NodeState& h = node->payload;
      h.pinned_end = h.pin_round == pin_round_ ? std::max(h.pinned_end, end) : end;
      h.pin_round = pin_round_;
      end = node->begin;
    }
  }
}

/// Up to where the node's edge is pinned; its begin if it is not.
Pos RadixCache::pinned_end(const Node* node) const {
  const NodeState& h = node->payload;
  return h.pin_round == pin_round_ ? std::max(h.pinned_end, node->begin) : node->begin;
}

bool RadixCache::make_room(std::int32_t n, std::vector<KvOp>& ops) {
  if (n <= n_free()) return true;
  mark_pins();
  for (const bool pinned_too : {false, true}) {
    while (n > n_free()) {
      Node* victim = cell_victim(pinned_too);
      if (victim == nullptr) break;
      const Pos floor = pinned_too ? victim->begin : pinned_end(victim);
      const Pos n_wanted = (n - n_free() + kEvictedPiece - 1) / kEvictedPiece * kEvictedPiece;
      cut(victim, std::max(floor, victim->end() - n_wanted), victim->payload.holder,
          EvictionReason::kCells, ops);
    }
  }
  return n <= n_free();
}

RadixCache::Node* RadixCache::cell_victim(bool pinned_too) const {
  for (const auto& [rank, node] : evictable_) {
    if (pinned_too || pinned_end(node) < node->end()) return node;
  }
  return nullptr;
}

/// Takes the cells of [at, end) from a held leaf that no running sequence needs; `seq` holds them.
void RadixCache::cut(Node* leaf, Pos at, SeqId seq, EvictionReason reason, std::vector<KvOp>& ops) {
  if (at > leaf->begin) split(leaf, at);
  Node* parent = leaf->parent;
  NodeState& h = leaf->payload;
  const bool saved = reason != EvictionReason::kClear && save(leaf, seq, ops);
  metrics_.count_evicted(reason, leaf->length());
  const SeqId holder = std::exchange(h.holder, kNoSeq);
  set_held(leaf, false);
  if (holder != kNoSeq) {
    NodeState& up = parent->payload;
    if (!parent->is_root() && up.n_held_children == 0 && up.attached.empty()) {
      up.holder = holder;
      up.holder_end = parent->end();
      ops.push_back({KvOp::Kind::kRemove, holder, parent->end(), -1});
    } else {
      free_holder(holder, ops);
    }
  }
  if (saved) {
    metrics_.n_saved += leaf->length();
  } else {
    make_ghost(leaf);
  }
}

/// Forgets the data of a node that is not held, and of all below it, but not their usage.
void RadixCache::make_ghost(Node* node) {
  const auto since = static_cast<double>(++n_evictions_);
  Tree::walk(*node, [&](Node& n) {
    if (n.payload.ghost() && &n != node) return;
    unfile(&n);
    n.payload.blocks.clear();
    n.payload.ghost_since = since;
    std::erase_if(unsettled_, [&n](const auto& item) { return item.first == &n; });
    refile(&n);
  });
  refile(node->parent);
  shed_ghosts();
}

void RadixCache::shed_ghosts() {
  while (n_ghost_tokens_ > kGhostsPerCell * options_.n_cells) remove(ghosts_.begin()->second);
}

/// Forgets a node that is not held and all below it.
void RadixCache::remove(Node* node) {
  Tree::walk(*node, [this](Node& n) {
    unfile(&n);
    --metrics_.n_nodes;
    if (flushing_) std::erase(to_flush_, &n);
  });
  Node* parent = node->parent;
  tree_.remove(node);
  refile(parent);
  prune_root(parent);
}

void RadixCache::prune_root(Node* node) {
  if (node->is_root() && node->children.empty() && node->payload.n_running == 0) {
    tree_.remove(node);
  }
}

void RadixCache::free_holder(SeqId holder, std::vector<KvOp>& ops) {
  ops.push_back({KvOp::Kind::kRemove, holder, 0, -1});
  holders_.release(holder);
}

/// A holder for a path that is about to be kept; none only if running sequences need all others.
SeqId RadixCache::acquire_holder(std::vector<KvOp>& ops) {
  for (const SequenceState& live : live_) {
    if (holders_.n_free() > 0) break;
    // A running sequence holds its leaf itself.
    if (live.node == nullptr || live.node->payload.holder == kNoSeq) continue;
    live.node->payload.holder_end = 0;
    free_holder(std::exchange(live.node->payload.holder, kNoSeq), ops);
  }
  if (holders_.n_free() == 0) mark_pins();
  while (holders_.n_free() == 0) {
    Node* victim = holder_victim();
    if (victim == nullptr) break;
    // Up to where another path branches off and keeps the rest.
    for (bool freed = false; !freed;) {
      Node* parent = victim->parent;
      cut(victim, victim->begin, victim->payload.holder, EvictionReason::kHolders, ops);
      freed = holders_.n_free() > 0;
      victim = parent;
    }
  }
  return holders_.n_free() > 0 ? holders_.acquire() : kNoSeq;
}

/// Without its holder all that no other path shares is lost: a doubling of it is worth one mean
/// gap, as is a doubling of the odds.
double RadixCache::holder_worth(const Node* leaf) const {
  const Node* top = leaf;
  while (!top->parent->is_root() && top->parent->payload.n_held_children == 1) top = top->parent;
  const double n_lost = leaf->end() - top->begin;
  return leaf->payload.usage.score + model_.mean_gap() * std::log2(n_lost);
}

RadixCache::Node* RadixCache::holder_victim() const {
  const auto worth = [this](const auto& filed) {
    const Node* leaf = filed.second;
    return std::pair(pinned_end(leaf) > leaf->begin, holder_worth(leaf));
  };
  const auto it = std::ranges::min_element(evictable_, {}, worth);
  return it == evictable_.end() ? nullptr : it->second;
}

void RadixCache::clear(std::vector<KvOp>& ops) {
  const auto remove_unheld = [this] {
    std::vector<Node*> tops;
    tree_.for_each([&tops](Node& node) {
      if (!node.is_root() && !node.payload.held &&
          (node.parent->is_root() || node.parent->payload.held)) {
        tops.push_back(&node);
      }
    });
    for (Node* node : tops) remove(node);
  };
  pins_.clear();
  remove_unheld();
  while (!evictable_.empty()) {
    Node* leaf = evictable_.begin()->second;
    cut(leaf, leaf->begin, leaf->payload.holder, EvictionReason::kClear, ops);
  }
  remove_unheld();
  tree_.for_each([](Node& node) { node.payload.blocks.clear(); });
  if (store_->disk() != nullptr) store_->disk()->clear();
}

}  // namespace llamaherd

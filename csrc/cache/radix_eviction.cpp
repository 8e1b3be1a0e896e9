#include "cache/radix_eviction.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace llamaherd {
namespace {

// Cells are freed in pieces of this size, so that not every step has to evict.
constexpr Pos kEvictedPiece = 64;

}  // namespace

RadixEviction::RadixEviction(SequenceIdPool holders, RadixState& state, RadixTiers& tiers,
                             const PinnedPrefixes& pins, CacheMetrics& metrics)
    : holders_(std::move(holders)), state_(state), tiers_(tiers), pins_(pins), metrics_(metrics) {}

bool RadixEviction::make_room(std::int32_t n, std::vector<KvOp>& ops) {
  if (n <= state_.n_free()) return true;
  state_.mark_pinned(pins_);
  for (const bool pinned_too : {false, true}) {
    while (n > state_.n_free()) {
      RadixNode* victim = cell_victim(pinned_too);
      if (victim == nullptr) break;
      const Pos floor = pinned_too ? victim->begin : state_.pinned_end(*victim);
      const Pos n_wanted =
          (n - state_.n_free() + kEvictedPiece - 1) / kEvictedPiece * kEvictedPiece;
      evict(victim, std::max(floor, victim->end() - n_wanted), victim->payload.holder,
            EvictionReason::kCells, ops);
    }
  }
  return n <= state_.n_free();
}

RadixNode* RadixEviction::cell_victim(bool pinned_too) const {
  for (const auto& [rank, node] : state_.evictable()) {
    if (pinned_too || state_.pinned_end(*node) < node->end()) return node;
  }
  return nullptr;
}

/// Takes the cells of [at, end) from a held leaf that no running sequence needs; `seq` holds them.
void RadixEviction::evict(RadixNode* leaf, Pos at, SeqId seq, EvictionReason reason,
                          std::vector<KvOp>& ops) {
  if (at > leaf->begin) state_.split(leaf, at);
  RadixNode* parent = leaf->parent;
  const bool saved = reason != EvictionReason::kClear && tiers_.save(leaf, seq, ops);
  metrics_.count_evicted(reason, leaf->length());
  const SeqId holder = std::exchange(leaf->payload.holder, kNoSeq);
  state_.set_held(leaf, false);
  if (holder != kNoSeq) {
    RadixNodeState& up = parent->payload;
    if (!parent->is_root() && up.n_held_children == 0 && up.attached.empty()) {
      up.holder = holder;
      up.holder_end = parent->end();
      ops.push_back({KvOp::Kind::kRemove, holder, parent->end(), -1});
    } else {
      release_holder(holder, ops);
    }
  }
  if (saved) {
    metrics_.n_saved += leaf->length();
  } else {
    tiers_.make_ghost(leaf);
  }
}

void RadixEviction::hold_idle(RadixNode* node, SeqId seq, std::vector<KvOp>& ops) {
  RadixNodeState& h = node->payload;
  state_.unindex(node);
  if (h.holder == kNoSeq) {
    h.holder = acquire_holder(ops);
    h.holder_end = 0;
  }
  if (h.holder == kNoSeq) {
    for (bool held_by_others = false; !held_by_others;) {
      RadixNode* parent = node->parent;
      held_by_others = parent->is_root() || !parent->payload.attached.empty() ||
                       parent->payload.n_held_children > 1;
      evict(node, node->begin, seq, EvictionReason::kHolders, ops);
      node = parent;
    }
    return;
  }
  ops.push_back({KvOp::Kind::kCopy, seq, h.holder_end, node->end(), h.holder});
  h.holder_end = node->end();
  state_.reindex(node);
}

/// kNoSeq if none can be taken.
SeqId RadixEviction::acquire_holder(std::vector<KvOp>& ops) {
  release_unneeded_holders(ops);
  if (holders_.n_free() == 0) state_.mark_pinned(pins_);
  while (holders_.n_free() == 0) {
    RadixNode* victim = holder_victim();
    if (victim == nullptr) return kNoSeq;
    // Evicts up to the branch point of another path, whose holder holds the rest.
    for (bool freed = false; !freed;) {
      RadixNode* parent = victim->parent;
      evict(victim, victim->begin, victim->payload.holder, EvictionReason::kHolders, ops);
      freed = holders_.n_free() > 0;
      victim = parent;
    }
  }
  return holders_.acquire();
}

/// Until one is free, releases holders of nodes to which a running sequence is attached, as it
/// holds the path itself.
void RadixEviction::release_unneeded_holders(std::vector<KvOp>& ops) {
  for (const RadixState::Sequence& sequence : state_.sequences()) {
    if (holders_.n_free() > 0) return;
    if (sequence.node == nullptr) continue;
    RadixNodeState& h = sequence.node->payload;
    if (h.holder == kNoSeq) continue;
    h.holder_end = 0;
    release_holder(std::exchange(h.holder, kNoSeq), ops);
  }
}

void RadixEviction::release_holder(SeqId holder, std::vector<KvOp>& ops) {
  ops.push_back({KvOp::Kind::kRemove, holder, 0, -1});
  holders_.release(holder);
}

/// The score plus a term for the tokens that are lost without the holder, as no other path shares
/// them: twice as many tokens count as one mean gap, like twice the odds of reuse.
double RadixEviction::holder_worth(const RadixNode* leaf) const {
  const RadixNode* top = leaf;
  while (!top->parent->is_root() && top->parent->payload.n_held_children == 1) top = top->parent;
  const double n_lost = leaf->end() - top->begin;
  return leaf->payload.usage.score + state_.reuse().mean_gap() * std::log2(n_lost);
}

RadixNode* RadixEviction::holder_victim() const {
  const auto worth = [this](const auto& item) {
    const RadixNode* leaf = item.second;
    return std::pair(state_.pinned_end(*leaf) > leaf->begin, holder_worth(leaf));
  };
  const auto it = std::ranges::min_element(state_.evictable(), {}, worth);
  return it == state_.evictable().end() ? nullptr : it->second;
}

void RadixEviction::clear(std::vector<KvOp>& ops) {
  while (!state_.evictable().empty()) {
    RadixNode* leaf = state_.evictable().begin()->second;
    evict(leaf, leaf->begin, leaf->payload.holder, EvictionReason::kClear, ops);
  }
}

void RadixEviction::forget_all() { holders_ = SequenceIdPool(holders_.n_seqs(), holders_.first()); }

}  // namespace llamaherd

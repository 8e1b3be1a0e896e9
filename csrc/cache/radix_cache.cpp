#include "cache/radix_cache.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "cache/radix_audit.h"

namespace llamaherd {
namespace {

void copy(std::vector<KvOp>& ops, SeqId from, Pos begin, Pos end, SeqId to) {
  ops.push_back({KvOp::Kind::kCopy, from, begin, end, to});
}

/// Replaces the cells in which `seq` has computed a part of a held node's edge by the node's.
void share_instead(SeqId seq, const RadixNode& node, Pos begin, Pos end, std::vector<KvOp>& ops) {
  ops.push_back({KvOp::Kind::kRemove, seq, begin, end});
  copy(ops, holder_of(node), begin, end, seq);
}

}  // namespace

RadixCache::RadixCache(const Options& options, std::unique_ptr<BlockStore> store)
    : state_(options.n_seqs, options.n_cells),
      tiers_({options.kv_save_block, options.costs}, std::move(store), state_, pins_, metrics_),
      eviction_(SequenceIdPool(options.n_holders, options.first_holder), state_, tiers_, pins_,
                metrics_) {}

PrefixCache::Match RadixCache::match(CacheNamespace space, std::span<const TokenId> tokens) const {
  const RadixState::Tree::Match found = state_.tree().find(space, tokens);
  Match match;
  match.n_restorable = found.n;
  // From the end upwards: all nodes above a held one are held.
  Pos end = found.n;
  for (const RadixNode* node = found.node; node != nullptr && !node->is_root();
       node = node->parent) {
    const RadixNodeState& h = node->payload;
    if (!h.held) {
      if (h.ghost() || !tiers_.worth_restoring(*node, end - node->begin)) {
        match.n_restorable = node->begin;
      }
    } else {
      match.n_held = std::max(match.n_held, end);
      if (h.n_running == 0) match.n_newly_pinned += end - node->begin;
    }
    end = node->begin;
  }
  return match;
}

void RadixCache::attach(SeqId seq, std::optional<CacheNamespace> space,
                        std::span<const TokenId> tokens, Pos waited_from, std::vector<KvOp>& ops) {
  state_.start(seq);
  if (!space) return;
  const auto n = static_cast<Pos>(tokens.size());
  RadixNode* node = state_.root(*space);
  if (n > 0) {
    const RadixState::Tree::Match found = state_.tree().find(*space, tokens);
    if (found.n != n || !found.node->payload.held) {
      throw std::logic_error("RadixCache::attach to more than is held");
    }
    node = n < found.node->end() ? state_.split(found.node, n) : found.node;
    copy(ops, holder_of(*node), 0, n, seq);
    for (const RadixNode* p = node; !p->is_root(); p = p->parent) {
      const Pos n_waited = std::clamp(p->end() - waited_from, 0, p->length());
      metrics_.n_from_in_flight += n_waited;
      (p->payload.n_running > 0 ? metrics_.n_from_running : metrics_.n_from_finished) +=
          p->length() - n_waited;
    }
    for (RadixNode* p = node; !p->is_root(); p = p->parent) state_.touch(p);
  }
  state_.attach(seq, node);
}

void RadixCache::publish(SeqId seq, std::span<const TokenId> tokens, bool /*at_boundary*/,
                         std::vector<KvOp>& ops) {
  const RadixState::Sequence& sequence = state_.sequence(seq);
  const auto n = static_cast<Pos>(tokens.size());
  if (sequence.node == nullptr) {
    state_.set_private_length(seq, n);
    return;
  }
  while (sequence.node->end() < n) {
    const std::span<const TokenId> rest = tokens.subspan(sequence.node->end());
    RadixNode* child = sequence.node->child(rest[0]);
    // Other sequences may have been attached at its end since.
    const bool own = sequence.owns_leaf && sequence.node->payload.attached.size() == 1;
    if (own && sequence.node->children.empty()) {
      state_.grow(sequence.node, rest);
    } else if (child == nullptr) {
      child = state_.add_child(sequence.node, rest);
      state_.set_held(child, true);
      state_.touch(child);
      state_.descend(seq, child, true);
    } else if (own && sequence.node->children.size() == 1 &&
               RadixState::Tree::common(*child, rest) < child->length()) {
      absorb(seq, child, RadixState::Tree::common(*child, rest), ops);
    } else {
      follow(seq, child, rest, ops);
    }
  }
}

/// The sequence has also computed the tokens with which `child` begins.
void RadixCache::follow(SeqId seq, RadixNode* child, std::span<const TokenId> rest,
                        std::vector<KvOp>& ops) {
  const Pos n = RadixState::Tree::common(*child, rest);
  const bool is_part = n < child->length();
  if (is_part) child = state_.split(child, child->begin + n);
  if (child->payload.held) {
    share_instead(seq, *child, child->begin, child->end(), ops);
  } else {
    tiers_.drop_ram_copies(child);
    state_.set_held(child, true);
  }
  state_.touch(child);
  state_.descend(seq, child, is_part);
}

/// The same for a sequence that decodes these tokens one by one: its node takes over the first n
/// tokens of its only child. follow() would add a node for each token.
void RadixCache::absorb(SeqId seq, RadixNode* child, Pos n, std::vector<KvOp>& ops) {
  if (child->payload.held) share_instead(seq, *child, child->begin, child->begin + n, ops);
  state_.shift(child, n);
}

Pos RadixCache::advance(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) {
  const RadixState::Sequence& sequence = state_.sequence(seq);
  if (sequence.node == nullptr) return sequence.n_private;
  const auto n = static_cast<Pos>(tokens.size());
  while (sequence.node->end() < n) {
    const std::span<const TokenId> rest = tokens.subspan(sequence.node->end());
    RadixNode* child = sequence.node->child(rest[0]);
    if (child == nullptr || !child->payload.held) break;
    const Pos end = child->begin + RadixState::Tree::common(*child, rest);
    if (end < child->end()) child = state_.split(child, end);
    copy(ops, holder_of(*child), child->begin, end, seq);
    metrics_.n_from_in_flight += child->length();
    state_.touch(child);
    state_.descend(seq, child, false);
  }
  return sequence.node->end();
}

std::int32_t RadixCache::n_cells_to_restore(SeqId seq, std::span<const TokenId> tokens) const {
  return tiers_.n_cells_to_restore(state_.sequence(seq).node, tokens);
}

std::optional<PrefixCache::Restore> RadixCache::next_restore(SeqId seq,
                                                             std::span<const TokenId> tokens) {
  return tiers_.next_restore(state_.sequence(seq).node, tokens);
}

void RadixCache::restored(SeqId seq, const Restore& piece, bool loaded) {
  tiers_.restored(state_.sequence(seq).node, piece, loaded);
}

void RadixCache::release(SeqId seq, std::span<const TokenId> /*tokens*/, std::vector<KvOp>& ops) {
  RadixNode* node = state_.stop(seq);
  if (node != nullptr && node->is_root()) {
    state_.remove_if_empty_root(node);
  } else if (node != nullptr && node->payload.attached.empty() &&
             node->payload.n_held_children == 0) {
    eviction_.hold_idle(node, seq, ops);
  }
  ops.push_back({KvOp::Kind::kRemove, seq, 0, kToEnd});
}

void RadixCache::drop(SeqId seq) {
  throw std::logic_error("RadixCache::drop of sequence " + std::to_string(seq) +
                         ": this memory can be trimmed");
}

bool RadixCache::make_room(std::int32_t n, std::vector<KvOp>& ops) {
  return eviction_.make_room(n, ops);
}

void RadixCache::clear(std::vector<KvOp>& ops) {
  pins_.clear();
  tiers_.remove_unheld();
  eviction_.clear(ops);
  tiers_.remove_unheld();
  tiers_.clear_files();
}

void RadixCache::forget_all() {
  state_.clear();
  tiers_.forget_all();
  eviction_.forget_all();
}

void RadixCache::fill(CacheMetrics& metrics) const {
  const SequenceIdPool& holders = eviction_.holders();
  metrics = metrics_;
  metrics.n_holders = holders.n_seqs();
  metrics.n_holders_used = holders.n_seqs() - holders.n_free();
  metrics.n_pins = pins_.size();
  metrics.n_nodes = state_.n_nodes();
  metrics.n_cells_reclaimable = state_.n_held() - state_.n_running();
  metrics.n_bytes_ram = tiers_.n_ram_bytes();
  metrics.n_bytes_disk = tiers_.n_disk_bytes();
}

std::vector<PrefixCache::ExpectedLength> RadixCache::expected_lengths() const {
  return radix_audit::expected_lengths(state_, eviction_.holders());
}

std::vector<std::string> RadixCache::violations() const {
  return radix_audit::violations(state_, eviction_.holders(), tiers_.n_ram_bytes());
}

}  // namespace llamaherd

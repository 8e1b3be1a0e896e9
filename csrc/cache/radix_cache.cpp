#include "cache/radix_cache.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace llamaherd {
namespace {

constexpr Pos kToEnd = -1;

void remove_all(std::vector<KvOp>& ops, SeqId seq, Pos begin = 0) {
  ops.push_back({KvOp::Kind::kRemove, seq, begin, kToEnd});
}

void copy(std::vector<KvOp>& ops, SeqId from, Pos begin, Pos end, SeqId to) {
  ops.push_back({KvOp::Kind::kCopy, from, begin, end, to});
}

}  // namespace

RadixCache::NodeState RadixCache::NodeState::split_off(Pos at) {
  NodeState upper;
  upper.held = held;
  upper.n_running = n_running;
  upper.n_held_children = held ? 1 : 0;
  upper.usage = usage;
  upper.ghost_since = ghost_since;
  upper.pinned_end = pinned_end;
  upper.pin_round = pin_round;
  for (const auto& block : blocks) {
    if (block->begin < at) upper.blocks.push_back(block);
  }
  std::erase_if(blocks, [at](const auto& block) { return block->end <= at; });
  return upper;
}

RadixCache::RadixCache(const Options& options, std::unique_ptr<BlockStore> store)
    : options_(options),
      store_(std::move(store)),
      live_(options.n_seqs),
      holders_(options.n_holders, options.first_holder),
      model_(options.n_cells) {
  adopt_files();
}

PrefixCache::Match RadixCache::match(CacheNamespace space, std::span<const TokenId> tokens) const {
  const Tree::Match found = tree_.find(space, tokens);
  Match match;
  match.n_restorable = found.n;
  // Upwards, for what is above a held node is held.
  Pos end = found.n;
  for (const Node* node = found.node; node != nullptr && !node->is_root(); node = node->parent) {
    const NodeState& h = node->payload;
    if (!h.held) {
      if (h.ghost() || !worth_restoring(node, end - node->begin)) match.n_restorable = node->begin;
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
  SequenceState& live = live_[seq];
  if (live.in_use) throw std::logic_error("RadixCache::attach: sequence is in use");
  live = {};
  live.in_use = true;
  if (!space) return;
  const auto n = static_cast<Pos>(tokens.size());
  Node* node = tree_.root(*space);
  if (n > 0) {
    const Tree::Match found = tree_.find(*space, tokens);
    if (found.n != n || !found.node->payload.held) {
      throw std::logic_error("RadixCache::attach to more than is held");
    }
    node = n < found.node->end() ? split(found.node, n) : found.node;
    copy(ops, holder(node), 0, n, seq);
    for (const Node* p = node; !p->is_root(); p = p->parent) {
      const Pos n_waited = std::clamp(p->end() - waited_from, 0, p->length());
      metrics_.n_from_in_flight += n_waited;
      (p->payload.n_running > 0 ? metrics_.n_from_running : metrics_.n_from_finished) +=
          p->length() - n_waited;
    }
    for (Node* p = node; !p->is_root(); p = p->parent) touch(p);
  }
  enter(node, seq);
}

void RadixCache::publish(SeqId seq, std::span<const TokenId> tokens, bool /*at_boundary*/,
                         std::vector<KvOp>& ops) {
  SequenceState& live = live_[seq];
  const auto n = static_cast<Pos>(tokens.size());
  if (live.node == nullptr) {
    n_private_ += n - live.n_private;
    live.n_private = n;
    return;
  }
  while (live.node->end() < n) {
    const std::span<const TokenId> rest = tokens.subspan(live.node->end());
    Node* child = live.node->child(rest[0]);
    // Unless others have come to stand at its end meanwhile.
    const bool own = live.owns_leaf && live.node->payload.attached.size() == 1;
    if (own && live.node->children.empty()) {
      grow(live.node, rest);
    } else if (child == nullptr) {
      child = add_child(live.node, rest);
      set_held(child, true);
      touch(child);
      descend(child, seq);
      live.owns_leaf = true;
    } else if (own && live.node->children.size() == 1 &&
               Tree::common(*child, rest) < child->length()) {
      absorb(seq, child, Tree::common(*child, rest), ops);
    } else {
      follow(seq, child, rest, ops);
    }
  }
}

/// A running sequence's own leaf gets longer.
void RadixCache::grow(Node* leaf, std::span<const TokenId> tokens) {
  const auto n = static_cast<std::int32_t>(tokens.size());
  tree_.append(leaf, tokens);
  model_.grow(leaf->payload.usage, n);
  model_.advance(n);
  n_held_ += n;
  n_running_ += n;
}

/// The sequence has computed what `child` begins with as well.
void RadixCache::follow(SeqId seq, Node* child, std::span<const TokenId> rest,
                        std::vector<KvOp>& ops) {
  const Pos n = Tree::common(*child, rest);
  const bool is_part = n < child->length();
  if (is_part) child = split(child, child->begin + n);
  if (child->payload.held) {
    give_up_copy(seq, child, child->begin, child->end(), ops);
  } else {
    set_held(child, true);
  }
  touch(child);
  descend(child, seq);
  live_[seq].owns_leaf = is_part;
}

/// The same for the next n tokens, one by one as they are decoded: the node that the sequence made
/// when it began to follow gets longer, or each token would add one.
void RadixCache::absorb(SeqId seq, Node* child, Pos n, std::vector<KvOp>& ops) {
  Node* node = live_[seq].node;
  NodeState& h = child->payload;
  const Pos begin = child->begin;
  unfile(child);
  if (h.held) {
    give_up_copy(seq, child, begin, begin + n, ops);
    if (h.n_running == 0) n_running_ += n;
  } else {
    n_held_ += n;
    n_running_ += n;
    model_.advance(n);
  }
  for (const auto& block : h.split_off(begin + n).blocks) {
    const auto& own = node->payload.blocks;
    if (block->file != 0 && (own.empty() || own.back() != block)) {
      node->payload.blocks.push_back(block);
    }
  }
  tree_.shift(node, n);
  model_.grow(node->payload.usage, n);
  refile(child);
}

/// What the sequence has computed of a held node's edge is held once again.
void RadixCache::give_up_copy(SeqId seq, const Node* node, Pos begin, Pos end,
                              std::vector<KvOp>& ops) {
  ops.push_back({KvOp::Kind::kRemove, seq, begin, end});
  copy(ops, holder(node), begin, end, seq);
}

Pos RadixCache::advance(SeqId seq, std::span<const TokenId> tokens, std::vector<KvOp>& ops) {
  SequenceState& live = live_[seq];
  if (live.node == nullptr) return live.n_private;
  const auto n = static_cast<Pos>(tokens.size());
  while (live.node->end() < n) {
    const std::span<const TokenId> rest = tokens.subspan(live.node->end());
    Node* child = live.node->child(rest[0]);
    if (child == nullptr || !child->payload.held) break;
    const Pos end = child->begin + Tree::common(*child, rest);
    if (end < child->end()) child = split(child, end);
    copy(ops, holder(child), child->begin, end, seq);
    metrics_.n_from_in_flight += child->length();
    touch(child);
    descend(child, seq);
  }
  return live.node->end();
}

/// The stored node that begins where the sequence ends and goes on as `tokens` do, or null.
RadixCache::Node* RadixCache::stored_behind(SeqId seq, std::span<const TokenId> tokens) const {
  const Node* node = live_[seq].node;
  if (node == nullptr || node->end() >= static_cast<Pos>(tokens.size())) return nullptr;
  Node* child = node->child(tokens[node->end()]);
  const bool is_stored = child != nullptr && !child->payload.held && !child->payload.ghost();
  return is_stored ? child : nullptr;
}

std::int32_t RadixCache::n_cells_to_restore(SeqId seq, std::span<const TokenId> tokens) const {
  const Node* child = stored_behind(seq, tokens);
  if (child == nullptr) return 0;
  const KvBlock& block = *child->payload.blocks.front();
  return block.end - block.begin;
}

std::optional<PrefixCache::Restore> RadixCache::next_restore(SeqId seq,
                                                             std::span<const TokenId> tokens) {
  Node* child = stored_behind(seq, tokens);
  if (child == nullptr) return {};
  const std::span<const TokenId> rest = tokens.subspan(child->begin);
  Restore piece{child->payload.blocks.front(), child->begin, 0, {}};
  piece.end = std::min(child->begin + Tree::common(*child, rest), piece.block->end);
  if (piece.block->bytes.empty() && piece.block->file != 0) {
    auto data = store_->disk()->read(piece.block->file, tokens.first(piece.end));
    if (data) piece.from_file = std::move(*data);
  }
  if (!piece.data().empty()) return piece;
  ++metrics_.n_damaged;
  make_ghost(child);
  return {};
}

void RadixCache::restored(SeqId seq, const Restore& piece, bool loaded) {
  if (loaded) {
    (piece.from_file.empty() ? metrics_.n_from_ram : metrics_.n_from_disk) +=
        piece.end - piece.begin;
    return;
  }
  ++metrics_.n_damaged;
  for (const auto& [token, child] : live_[seq].node->children) {
    const auto& blocks = child->payload.blocks;
    if (child->payload.held || blocks.empty() || blocks.front() != piece.block) continue;
    make_ghost(child.get());
    return;
  }
}

void RadixCache::release(SeqId seq, std::span<const TokenId> /*tokens*/, std::vector<KvOp>& ops) {
  Node* node = live_[seq].node;
  leave(seq);
  if (node != nullptr) {
    const NodeState& h = node->payload;
    if (node->is_root()) {
      prune_root(node);
    } else if (h.attached.empty() && h.n_held_children == 0) {
      keep(node, seq, ops);
    }
  }
  remove_all(ops, seq);
  live_[seq] = {};
}

void RadixCache::drop(SeqId seq) {
  throw std::logic_error("RadixCache::drop of sequence " + std::to_string(seq) +
                         ": this memory can be trimmed");
}

/// Gives the path to `node`, until now held by the idle `seq` alone, a holder, or gives it up.
void RadixCache::keep(Node* node, SeqId seq, std::vector<KvOp>& ops) {
  NodeState& h = node->payload;
  unfile(node);
  if (h.holder == kNoSeq) {
    h.holder = acquire_holder(ops);
    h.holder_end = 0;
  }
  if (h.holder == kNoSeq) {
    for (bool held_by_others = false; !held_by_others;) {
      Node* parent = node->parent;
      held_by_others = parent->is_root() || !parent->payload.attached.empty() ||
                       parent->payload.n_held_children > 1;
      cut(node, node->begin, seq, EvictionReason::kHolders, ops);
      node = parent;
    }
    return;
  }
  copy(ops, seq, h.holder_end, node->end(), h.holder);
  h.holder_end = node->end();
  refile(node);
}

RadixCache::Node* RadixCache::split(Node* node, Pos at) {
  unfile(node);
  Node* upper = tree_.split(node, at);
  upper->payload.id = next_id_++;
  ++metrics_.n_nodes;
  refile(upper);
  refile(node);
  return upper;
}

RadixCache::Node* RadixCache::add_child(Node* parent, std::span<const TokenId> tokens) {
  Node* child = tree_.add_child(parent, tokens);
  ++metrics_.n_nodes;
  child->payload.id = next_id_++;
  return child;
}

/// Attaches a sequence that so far is nowhere.
void RadixCache::enter(Node* node, SeqId seq) {
  live_[seq].node = node;
  node->payload.attached.push_back(seq);
  for (Node* p = node; p != nullptr; p = p->parent) {
    if (p->payload.n_running++ > 0) continue;
    n_running_ += p->length();
    refile(p);
  }
}

/// Moves an attached sequence down to a held child.
void RadixCache::descend(Node* child, SeqId seq) {
  SequenceState& live = live_[seq];
  std::erase(live.node->payload.attached, seq);
  live.node = child;
  live.owns_leaf = false;
  child->payload.attached.push_back(seq);
  if (child->payload.n_running++ == 0) n_running_ += child->length();
  refile(child);
}

void RadixCache::leave(SeqId seq) {
  SequenceState& live = live_[seq];
  if (!live.in_use) throw std::logic_error("RadixCache::release of an idle sequence");
  n_private_ -= live.n_private;
  if (live.node == nullptr) return;
  std::erase(live.node->payload.attached, seq);
  for (Node* p = live.node; p != nullptr; p = p->parent) {
    if (--p->payload.n_running > 0) continue;
    n_running_ -= p->length();
    refile(p);
  }
}

void RadixCache::touch(Node* node) {
  model_.touch(node->payload.usage, node->length());
  refile(node);
}

/// A sequence id that holds the whole path to the end of a held node.
SeqId RadixCache::holder(const Node* node) {
  for (;;) {
    const NodeState& h = node->payload;
    if (!h.attached.empty()) return h.attached.front();
    if (h.n_held_children == 0) return h.holder;
    node = std::ranges::find_if(node->children, [](const auto& child) {
             return child.second->payload.held;
           })->second.get();
  }
}

void RadixCache::forget_all() {
  for (SequenceState& live : live_) live = {};
  for (Order* order : {&evictable_, &stored_leaves_, &in_ram_, &ghosts_}) order->clear();
  n_ghost_tokens_ = 0;
  tree_.clear();
  store_->reap();
  metrics_.n_nodes = 0;
  to_flush_.clear();
  unsettled_.clear();
  n_held_ = n_running_ = n_private_ = 0;
  holders_ = SequenceIdPool(options_.n_holders, options_.first_holder);
}

}  // namespace llamaherd

#include "cache/radix_state.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace llamaherd {

RadixNodeState RadixNodeState::split_off(Pos at) {
  RadixNodeState upper;
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

SeqId holder_of(const RadixNode& node) {
  for (const RadixNode* n = &node;;) {
    const RadixNodeState& h = n->payload;
    if (!h.attached.empty()) return h.attached.front();
    if (h.n_held_children == 0) return h.holder;
    n = std::ranges::find_if(n->children, [](const auto& child) {
          return child.second->payload.held;
        })->second.get();
  }
}

bool has_cached_child(const RadixNode& node) {
  return std::ranges::any_of(node.children,
                             [](const auto& child) { return !child.second->payload.ghost(); });
}

RadixState::RadixState(std::int32_t n_seqs, std::int32_t n_cells)
    : sequences_(n_seqs), reuse_(n_cells), n_cells_(n_cells) {}

RadixNode* RadixState::split(RadixNode* node, Pos at) {
  unindex(node);
  RadixNode* upper = tree_.split(node, at);
  upper->payload.id = next_id_++;
  ++n_nodes_;
  reindex(upper);
  reindex(node);
  return upper;
}

RadixNode* RadixState::add_child(RadixNode* parent, std::span<const TokenId> tokens) {
  RadixNode* child = tree_.add_child(parent, tokens);
  ++n_nodes_;
  child->payload.id = next_id_++;
  return child;
}

void RadixState::grow(RadixNode* leaf, std::span<const TokenId> tokens) {
  const auto n = static_cast<std::int32_t>(tokens.size());
  tree_.append(leaf, tokens);
  reuse_.grow(leaf->payload.usage, n);
  reuse_.advance(n);
  n_held_ += n;
  n_running_ += n;
}

void RadixState::shift(RadixNode* child, Pos n) {
  RadixNode* parent = child->parent;
  RadixNodeState& h = child->payload;
  unindex(child);
  if (!h.held) {
    n_held_ += n;
    reuse_.advance(n);
  }
  if (h.n_running == 0) n_running_ += n;
  auto& blocks = parent->payload.blocks;
  for (const auto& block : h.split_off(child->begin + n).blocks) {
    if (block->file != 0 && (blocks.empty() || blocks.back() != block)) blocks.push_back(block);
  }
  tree_.shift(parent, n);
  reuse_.grow(parent->payload.usage, n);
  reindex(child);
}

void RadixState::touch(RadixNode* node) {
  reuse_.touch(node->payload.usage, node->length());
  reindex(node);
}

void RadixState::set_held(RadixNode* node, bool held) {
  RadixNodeState& h = node->payload;
  RadixNodeState& parent = node->parent->payload;
  h.held = held;
  parent.n_held_children += held ? 1 : -1;
  const std::int32_t n = held ? node->length() : -node->length();
  n_held_ += n;
  if (h.n_running > 0) n_running_ += n;
  if (held) {
    reuse_.advance(node->length());
    // The id that holds the parent holds it through the child from now on.
    h.holder = std::exchange(parent.holder, kNoSeq);
    h.holder_end = std::exchange(parent.holder_end, 0);
  }
  reindex(node->parent);
  reindex(node);
}

void RadixState::remove(RadixNode* node) {
  Tree::walk(*node, [this](RadixNode& n) {
    unindex(&n);
    --n_nodes_;
  });
  RadixNode* parent = node->parent;
  tree_.remove(node);
  reindex(parent);
  remove_if_empty_root(parent);
}

void RadixState::remove_if_empty_root(RadixNode* node) {
  if (node->is_root() && node->children.empty() && node->payload.n_running == 0) {
    tree_.remove(node);
  }
}

void RadixState::unindex(RadixNode* node) {
  const RadixNodeState::Rank rank = node->payload.rank;
  evictable_.erase(rank);
  stored_leaves_.erase(rank);
  in_ram_.erase(rank);
  if (ghosts_.erase(rank) > 0) n_ghost_tokens_ -= node->length();
}

void RadixState::reindex(RadixNode* node) {
  unindex(node);
  if (node->is_root()) return;
  RadixNodeState& h = node->payload;
  h.rank = {h.ghost() ? h.ghost_since : h.usage.score, h.id};
  if (h.held) {
    if (h.evictable()) evictable_.emplace(h.rank, node);
  } else if (h.ghost()) {
    ghosts_.emplace(h.rank, node);
    n_ghost_tokens_ += node->length();
  } else {
    if (!has_cached_child(*node)) stored_leaves_.emplace(h.rank, node);
    const bool in_ram = std::ranges::any_of(
        h.blocks, [](const auto& block) { return block->file == 0 || !block->bytes.empty(); });
    if (in_ram) in_ram_.emplace(h.rank, node);
  }
}

void RadixState::start(SeqId seq) {
  Sequence& s = sequences_[seq];
  if (s.in_use) {
    throw std::logic_error("RadixState::start: sequence " + std::to_string(seq) + " is in use");
  }
  s = {};
  s.in_use = true;
}

void RadixState::attach(SeqId seq, RadixNode* node) {
  sequences_[seq].node = node;
  node->payload.attached.push_back(seq);
  for (RadixNode* p = node; p != nullptr; p = p->parent) {
    if (p->payload.n_running++ > 0) continue;
    n_running_ += p->length();
    reindex(p);
  }
}

void RadixState::descend(SeqId seq, RadixNode* child, bool owns_leaf) {
  Sequence& s = sequences_[seq];
  std::erase(s.node->payload.attached, seq);
  s.node = child;
  s.owns_leaf = owns_leaf;
  child->payload.attached.push_back(seq);
  if (child->payload.n_running++ == 0) n_running_ += child->length();
  reindex(child);
}

void RadixState::set_private_length(SeqId seq, Pos n) {
  Sequence& s = sequences_[seq];
  n_private_ += n - s.n_private;
  s.n_private = n;
}

RadixNode* RadixState::stop(SeqId seq) {
  Sequence& s = sequences_[seq];
  if (!s.in_use) {
    throw std::logic_error("RadixState::stop: sequence " + std::to_string(seq) + " is idle");
  }
  n_private_ -= s.n_private;
  RadixNode* node = std::exchange(s, {}).node;
  if (node == nullptr) return nullptr;
  std::erase(node->payload.attached, seq);
  for (RadixNode* p = node; p != nullptr; p = p->parent) {
    if (--p->payload.n_running > 0) continue;
    n_running_ -= p->length();
    reindex(p);
  }
  return node;
}

void RadixState::mark_pinned(const PinnedPrefixes& pins) {
  ++pin_round_;
  for (const auto& [name, pin] : pins.all()) {
    const Tree::Match found = tree_.find(pin.space, pin.tokens);
    if (found.n == 0) continue;
    Pos end = found.n;
    for (RadixNode* node = found.node; !node->is_root(); node = node->parent) {
      RadixNodeState& h = node->payload;
      h.pinned_end = h.pin_round == pin_round_ ? std::max(h.pinned_end, end) : end;
      h.pin_round = pin_round_;
      end = node->begin;
    }
  }
}

Pos RadixState::pinned_end(const RadixNode& node) const {
  const RadixNodeState& h = node.payload;
  return h.pin_round == pin_round_ ? std::max(h.pinned_end, node.begin) : node.begin;
}

void RadixState::clear() {
  for (Sequence& s : sequences_) s = {};
  for (Order* order : {&evictable_, &stored_leaves_, &in_ram_, &ghosts_}) order->clear();
  n_ghost_tokens_ = 0;
  tree_.clear();
  n_nodes_ = 0;
  n_held_ = n_running_ = n_private_ = 0;
}

}  // namespace llamaherd

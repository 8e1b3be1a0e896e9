// The part of RadixCache that decides what goes, in which order, and where to.
//
// Cells are taken from the tails of held leaves that nobody who runs needs, the lowest score (see
// ReuseModel) first, what is pinned last; a path is so cut back towards its branch point and what
// is left of it stays of use. Tags are taken from the leaf that is worth least for the one tag it
// costs. What leaves the KV cache goes to host memory, from there to files; each tier forgets by
// the same score, leaves first. What no tier has is a ghost for as long as its usage may matter.

#include <algorithm>
#include <cmath>

#include "radix_cache.h"

namespace llamaherd {
namespace {

// Cells are freed in pieces: a step's eviction should last for a few steps.
constexpr Pos kEvictedPiece = 64;

// As many tokens of ghosts as make up about the time between two uses.
constexpr std::int64_t kGhostsPerCell = 16;

// Shorter tails are computed again as quickly as they are looked after.
constexpr Pos kMinSaved = 16;

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
  Holding& h = node->payload;
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
  Holding& h = node->payload;
  Holding& parent = node->parent->payload;
  h.held = held;
  parent.n_held_children += held ? 1 : -1;
  const std::int32_t n = held ? node->length() : -node->length();
  n_held_ += n;
  if (h.n_running > 0) n_running_ += n;
  if (held) {
    model_.advance(node->length());
    // What keeps the parent keeps it through the child from now on.
    h.tag = std::exchange(parent.tag, kNoSeq);
    h.tag_end = std::exchange(parent.tag_end, 0);
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
      Holding& h = node->payload;
      h.pinned_end = h.pin_round == pin_round_ ? std::max(h.pinned_end, end) : end;
      h.pin_round = pin_round_;
      end = node->begin;
    }
  }
}

/// Up to where the node's edge is pinned; its begin if it is not.
Pos RadixCache::pinned_end(const Node* node) const {
  const Holding& h = node->payload;
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
      cut(victim, std::max(floor, victim->end() - n_wanted), victim->payload.tag, ops);
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

/// Takes the cells of [at, end) from a held leaf that nobody who runs needs; `holder` holds them.
void RadixCache::cut(Node* leaf, Pos at, SeqId holder, std::vector<KvOp>& ops) {
  if (at > leaf->begin) split(leaf, at);
  Node* parent = leaf->parent;
  Holding& h = leaf->payload;
  const bool saved = save(leaf, holder, ops);
  metrics_.*reason_ += leaf->length();
  const SeqId tag = std::exchange(h.tag, kNoSeq);
  set_held(leaf, false);
  if (tag != kNoSeq) {
    Holding& up = parent->payload;
    if (!parent->is_root() && up.n_held_children == 0 && up.attached.empty()) {
      up.tag = tag;
      up.tag_end = parent->end();
      ops.push_back({KvOp::Kind::kRemove, tag, parent->end(), -1});
    } else {
      free_tag(tag, ops);
    }
  }
  if (saved) {
    metrics_.n_saved += leaf->length();
  } else {
    make_ghost(leaf);
  }
}

/// Plans the copies of a node's data out of the cells. Returns false if it is to be dropped.
bool RadixCache::save(Node* node, SeqId holder, std::vector<KvOp>& ops) {
  if (!store_->enabled() || !saves_) return false;
  Holding& h = node->payload;
  Pos covered = node->begin;
  for (const auto& block : h.blocks) {
    if (block->begin <= covered) covered = std::max(covered, block->end);
  }
  if (covered >= node->end()) return true;
  if (node->length() < kMinSaved && !has_stored_child(node)) return false;
  h.blocks.clear();
  const Pos n = options_.n_block;
  for (Pos begin = node->begin, end; begin < node->end(); begin = end) {
    end = std::min(begin - begin % n + n, node->end());
    h.blocks.push_back(store_->make(begin, end));
    ops.push_back({KvOp::Kind::kSave, holder, begin, end, kNoSeq, h.blocks.back()});
    unsettled_.emplace_back(node, h.blocks.back());
  }
  return true;
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

void RadixCache::free_tag(SeqId tag, std::vector<KvOp>& ops) {
  ops.push_back({KvOp::Kind::kRemove, tag, 0, -1});
  free_tags_.push_back(tag);
}

/// A tag for a path that is about to be kept; none only if those who run need all the others.
SeqId RadixCache::acquire_tag(std::vector<KvOp>& ops) {
  for (const Live& live : live_) {
    if (!free_tags_.empty()) break;
    // Whoever runs holds its leaf itself.
    if (live.node == nullptr || live.node->payload.tag == kNoSeq) continue;
    live.node->payload.tag_end = 0;
    free_tag(std::exchange(live.node->payload.tag, kNoSeq), ops);
  }
  if (free_tags_.empty()) mark_pins();
  reason_ = &CacheMetrics::n_evicted_for_tags;
  while (free_tags_.empty()) {
    Node* victim = tag_victim();
    if (victim == nullptr) break;
    // Up to where another path branches off and keeps the rest.
    for (bool freed = false; !freed;) {
      Node* parent = victim->parent;
      cut(victim, victim->begin, victim->payload.tag, ops);
      freed = !free_tags_.empty();
      victim = parent;
    }
  }
  reason_ = &CacheMetrics::n_evicted_for_cells;
  if (free_tags_.empty()) return kNoSeq;
  const SeqId tag = free_tags_.back();
  free_tags_.pop_back();
  return tag;
}

/// With its tag goes all that no other path shares: a doubling of it is worth one mean gap, as is a
/// doubling of the odds.
double RadixCache::tag_worth(const Node* leaf) const {
  const Node* top = leaf;
  while (!top->parent->is_root() && top->parent->payload.n_held_children == 1) top = top->parent;
  const double n_lost = leaf->end() - top->begin;
  return leaf->payload.usage.score + model_.mean_gap() * std::log2(n_lost);
}

RadixCache::Node* RadixCache::tag_victim() const {
  const auto worth = [this](const auto& filed) {
    const Node* leaf = filed.second;
    return std::pair(pinned_end(leaf) > leaf->begin, tag_worth(leaf));
  };
  const auto it = std::ranges::min_element(evictable_, {}, worth);
  return it == evictable_.end() ? nullptr : it->second;
}

void RadixCache::settle() {
  for (auto& [node, block] : std::exchange(unsettled_, {})) {
    store_->count(*block);
    if (!flushing_) continue;
    if (!to_disk(node, *block)) std::erase(node->payload.blocks, block);
    store_->drop_bytes(*block);
  }
  if (store_->over_ram_limit()) shed_ram();
  store_->reap();
}

/// Brings host memory below its limit: the lowest score first, to disk where there is one.
void RadixCache::shed_ram() {
  mark_pins();
  for (const bool pinned_too : {false, true}) {
    Order& order = store_->disk() != nullptr ? in_ram_ : stored_leaves_;
    for (auto it = order.begin(); it != order.end() && store_->over_ram_limit();) {
      Node* node = it->second;
      if (!pinned_too && pinned_end(node) > node->begin) {
        ++it;
        continue;
      }
      bool on_disk = store_->disk() != nullptr;
      for (const auto& block : node->payload.blocks) {
        on_disk = on_disk && to_disk(node, *block);
        if (on_disk) store_->drop_bytes(*block);
      }
      if (on_disk) {
        refile(node);
      } else if (!has_stored_child(node)) {
        drop_tail(node, &CacheMetrics::n_dropped_ram);
      } else {
        metrics_.n_dropped_ram += node->length();
        make_ghost(node);
      }
      it = order.begin();
    }
  }
}

/// Forgets the last block of a stored leaf.
void RadixCache::drop_tail(Node* leaf, std::int64_t CacheMetrics::*reason) {
  const Pos at = leaf->payload.blocks.empty() ? 0 : leaf->payload.blocks.back()->begin;
  if (at > leaf->begin) split(leaf, at);
  metrics_.*reason += leaf->length();
  make_ghost(leaf);
}

/// Writes a block to a file, for which lower-ranked files make room. Returns whether it is there.
bool RadixCache::to_disk(Node* node, KvBlock& block) {
  if (block.file != 0) return true;
  if (block.bytes.empty()) return false;
  const auto n_bytes = static_cast<std::int64_t>(block.bytes.size());
  for (auto it = stored_leaves_.begin(); !store_->fits_disk(n_bytes);) {
    if (it == stored_leaves_.end() || it->first >= node->payload.rank) return false;
    Node* leaf = (it++)->second;
    const auto& blocks = leaf->payload.blocks;
    if (blocks.empty() || blocks.back()->file == 0) continue;
    drop_tail(leaf, &CacheMetrics::n_dropped_disk);
    store_->reap();
    it = stored_leaves_.begin();
  }
  // A block that was split over several nodes is named by the path to the last of them.
  const auto shares = [&block](const auto& item) {
    const auto& blocks = item.second->payload.blocks;
    return !blocks.empty() && blocks.front().get() == &block;
  };
  while (node->end() < block.end) {
    const auto it = std::ranges::find_if(node->children, shares);
    if (it == node->children.end()) break;
    node = it->second.get();
  }
  return store_->write(block, node->space, path_of(node));
}

/// Takes over what an earlier run left on disk.
void RadixCache::adopt_files() {
  if (store_->disk() == nullptr) return;
  std::vector<DiskTier::Entry> entries = store_->disk()->take_entries();
  std::vector<std::pair<DiskTier::Entry, double>>
      by_begin;  // with a score by age, below all others
  for (DiskTier::Entry& entry : entries) {
    const auto n_younger = static_cast<double>(entries.size() - by_begin.size());
    by_begin.emplace_back(std::move(entry), -n_younger);
  }
  std::ranges::stable_sort(by_begin, {}, [](const auto& item) { return item.first.begin; });
  for (const auto& [entry, score] : by_begin) {
    const Tree::Match found = tree_.find(entry.space, entry.tokens);
    const auto end = static_cast<Pos>(entry.tokens.size());
    if (found.n < entry.begin || found.n == end) {  // its beginning is lost, or it is there twice
      store_->disk()->remove(entry.id);
      continue;
    }
    Node* parent = found.n == 0 ? tree_.root(entry.space) : found.node;
    if (found.n > 0 && found.n < parent->end()) parent = split(parent, found.n);
    Node* child = add_child(parent, std::span(entry.tokens).subspan(found.n));
    child->payload.usage = {1, 0, score};
    child->payload.blocks.push_back(store_->adopt(entry.begin, end, entry.id));
    refile(parent);
    refile(child);
  }
}

bool RadixCache::flush_next(std::vector<KvOp>& ops) {
  if (store_->disk() == nullptr) return false;
  if (!flushing_) {
    flushing_ = true;
    std::vector<Node*> nodes;
    tree_.for_each([&](Node& node) {
      if (!node.is_root()) nodes.push_back(&node);
    });
    // The best last, for the stack; of equals the parents, which were visited first, last.
    std::ranges::reverse(nodes);
    std::ranges::stable_sort(nodes, {}, [](const Node* node) { return node->payload.usage.score; });
    to_flush_ = std::move(nodes);
  }
  while (!to_flush_.empty()) {
    Node* node = to_flush_.back();
    to_flush_.pop_back();
    Holding& h = node->payload;
    if (h.held) {
      const std::size_t n_before = ops.size();
      save(node, holder(node), ops);
      if (ops.size() > n_before) return true;
      continue;
    }
    for (const auto& block : h.blocks) to_disk(node, *block);
  }
  return false;
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
  reason_ = &CacheMetrics::n_evicted_by_clear;
  while (!evictable_.empty()) {
    Node* leaf = evictable_.begin()->second;
    leaf->payload.blocks.clear();
    saves_ = false;
    cut(leaf, leaf->begin, leaf->payload.tag, ops);
    saves_ = true;
  }
  reason_ = &CacheMetrics::n_evicted_for_cells;
  remove_unheld();
  tree_.for_each([](Node& node) { node.payload.blocks.clear(); });
  if (store_->disk() != nullptr) store_->disk()->clear();
}

std::vector<TokenId> RadixCache::path_of(const Node* node) const {
  std::vector<TokenId> path(node->end());
  for (; !node->is_root(); node = node->parent) {
    std::ranges::copy(node->tokens, path.begin() + node->begin);
  }
  return path;
}

/// Whether bringing back the first n tokens of a stored node beats computing them.
bool RadixCache::worth_restoring(const Node* node, Pos n) const {
  const Costs& c = options_.costs;
  double ns = 0;
  for (const auto& block : node->payload.blocks) {
    const double n_loaded = block->end - block->begin;
    ns += c.load_call_ns + n_loaded * c.load_token_ns;
    if (block->bytes.empty()) ns += n_loaded * c.disk_read_token_ns;
    if (block->end >= node->begin + n) break;
  }
  return ns < n * c.prefill_token_ns;
}

}  // namespace llamaherd

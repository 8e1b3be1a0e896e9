// The part of RadixCache that moves data between the KV cache, host memory and files.

#include <algorithm>

#include "cache/radix_cache.h"

namespace llamaherd {
namespace {

// Shorter tails are computed again as quickly as they are looked after.
constexpr Pos kMinSaved = 16;

}  // namespace

/// Plans the copies of a node's data out of the cells. Returns false if it is to be dropped.
bool RadixCache::save(Node* node, SeqId holder, std::vector<KvOp>& ops) {
  if (!store_->enabled()) return false;
  NodeState& h = node->payload;
  Pos covered = node->begin;
  for (const auto& block : h.blocks) {
    if (block->begin <= covered) covered = std::max(covered, block->end);
  }
  if (covered >= node->end()) return true;
  if (node->length() < kMinSaved && !has_stored_child(node)) return false;
  h.blocks.clear();
  const Pos n = options_.kv_save_block;
  for (Pos begin = node->begin, end; begin < node->end(); begin = end) {
    end = std::min(begin - begin % n + n, node->end());
    h.blocks.push_back(store_->make(begin, end));
    ops.push_back({KvOp::Kind::kSave, holder, begin, end, kNoSeq, h.blocks.back()});
    unsettled_.emplace_back(node, h.blocks.back());
  }
  return true;
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
        drop_tail(node, metrics_.n_dropped_ram);
      } else {
        metrics_.n_dropped_ram += node->length();
        make_ghost(node);
      }
      it = order.begin();
    }
  }
}

/// Forgets the last block of a stored leaf.
void RadixCache::drop_tail(Node* leaf, std::int64_t& n_dropped) {
  const Pos at = leaf->payload.blocks.empty() ? 0 : leaf->payload.blocks.back()->begin;
  if (at > leaf->begin) split(leaf, at);
  n_dropped += leaf->length();
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
    drop_tail(leaf, metrics_.n_dropped_disk);
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
    NodeState& h = node->payload;
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

std::vector<TokenId> RadixCache::path_of(const Node* node) const {
  std::vector<TokenId> path(node->end());
  for (; !node->is_root(); node = node->parent) {
    std::ranges::copy(node->tokens, path.begin() + node->begin);
  }
  return path;
}

/// Whether bringing back the first n tokens of a stored node beats computing them.
bool RadixCache::worth_restoring(const Node* node, Pos n) const {
  const CostEstimates& c = options_.costs;
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

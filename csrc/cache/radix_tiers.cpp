#include "cache/radix_tiers.h"

#include <algorithm>
#include <utility>

namespace llamaherd {
namespace {

// Restoring fewer tokens takes as long as computing them.
constexpr Pos kMinSaved = 16;

// Ghosts are kept for about the time between two uses of a prefix.
constexpr std::int64_t kGhostTokensPerCell = 16;

std::vector<TokenId> path_of(const RadixNode* node) {
  std::vector<TokenId> path(node->end());
  for (; !node->is_root(); node = node->parent) {
    std::ranges::copy(node->tokens, path.begin() + node->begin);
  }
  return path;
}

/// The last of the nodes over which a block was split, from `node` on.
const RadixNode* last_with(const RadixNode* node, const KvBlock& block) {
  const auto begins_with_it = [&block](const auto& item) {
    const auto& blocks = item.second->payload.blocks;
    return !blocks.empty() && blocks.front().get() == &block;
  };
  while (node->end() < block.end) {
    const auto it = std::ranges::find_if(node->children, begins_with_it);
    if (it == node->children.end()) break;
    node = it->second.get();
  }
  return node;
}

}  // namespace

RadixTiers::RadixTiers(const Options& options, std::unique_ptr<BlockStore> store, RadixState& state,
                       const PinnedPrefixes& pins, CacheMetrics& metrics)
    : options_(options), store_(std::move(store)), state_(state), pins_(pins), metrics_(metrics) {
  if (store_->disk() != nullptr) adopt_files();
}

bool RadixTiers::save(RadixNode* node, SeqId seq, std::vector<KvOp>& ops) {
  if (!store_->enabled()) return false;
  auto& blocks = node->payload.blocks;
  Pos covered = node->begin;
  for (const auto& block : blocks) {
    if (block->begin <= covered) covered = std::max(covered, block->end);
  }
  if (covered >= node->end()) return true;
  if (node->length() < kMinSaved && !has_cached_child(*node)) return false;
  blocks.clear();
  const Pos n = options_.kv_save_block;
  for (Pos begin = node->begin, end; begin < node->end(); begin = end) {
    end = std::min(begin - begin % n + n, node->end());
    blocks.push_back(store_->make(begin, end));
    ops.push_back({KvOp::Kind::kSave, seq, begin, end, kNoSeq, blocks.back()});
    pending_saves_.emplace_back(node, blocks.back());
  }
  return true;
}

void RadixTiers::settle() {
  for (auto& [node, block] : std::exchange(pending_saves_, {})) {
    store_->count(*block);
    if (!flushing_) continue;
    if (!write_to_disk(node, *block)) std::erase(node->payload.blocks, block);
    store_->drop_bytes(*block);
  }
  if (store_->over_ram_limit()) evict_from_ram();
  store_->reap();
}

void RadixTiers::drop_ram_copies(RadixNode* node) {
  auto& blocks = node->payload.blocks;
  std::erase_if(blocks, [](const auto& block) { return block->file == 0; });
  for (const auto& block : blocks) store_->drop_bytes(*block);
}

void RadixTiers::make_ghost(RadixNode* node) {
  const auto since = static_cast<double>(++n_ghosts_made_);
  RadixState::Tree::walk(*node, [&](RadixNode& n) {
    if (n.payload.ghost() && &n != node) return;
    n.payload.blocks.clear();
    n.payload.ghost_since = since;
    std::erase_if(pending_saves_, [&n](const auto& item) { return item.first == &n; });
    state_.reindex(&n);
  });
  state_.reindex(node->parent);
  while (state_.n_ghost_tokens() > kGhostTokensPerCell * state_.n_cells()) {
    remove(state_.ghosts().begin()->second);
  }
}

void RadixTiers::remove(RadixNode* node) {
  if (flushing_) {
    RadixState::Tree::walk(*node, [this](RadixNode& n) { std::erase(to_flush_, &n); });
  }
  state_.remove(node);
}

/// Evicts to files where there is a disk tier.
void RadixTiers::evict_from_ram() {
  const bool has_disk = store_->disk() != nullptr;
  const RadixState::Order& order = has_disk ? state_.in_ram() : state_.stored_leaves();
  state_.mark_pinned(pins_);
  for (const bool pinned_too : {false, true}) {
    for (auto it = order.begin(); it != order.end() && store_->over_ram_limit();) {
      RadixNode* node = it->second;
      if (!pinned_too && state_.pinned_end(*node) > node->begin) {
        ++it;
        continue;
      }
      bool on_disk = has_disk;
      for (const auto& block : node->payload.blocks) {
        on_disk = on_disk && write_to_disk(node, *block);
        if (on_disk) store_->drop_bytes(*block);
      }
      if (on_disk) {
        state_.reindex(node);
      } else if (!has_cached_child(*node)) {
        metrics_.n_dropped_ram += drop_last_block(node);
      } else {
        metrics_.n_dropped_ram += node->length();
        make_ghost(node);
      }
      it = order.begin();
    }
  }
}

/// Drops the last block of a stored leaf. Returns the number of tokens.
std::int64_t RadixTiers::drop_last_block(RadixNode* leaf) {
  const Pos at = leaf->payload.blocks.empty() ? 0 : leaf->payload.blocks.back()->begin;
  if (at > leaf->begin) state_.split(leaf, at);
  const Pos n = leaf->length();
  make_ghost(leaf);
  return n;
}

/// Returns whether the block is in a file.
bool RadixTiers::write_to_disk(RadixNode* node, KvBlock& block) {
  if (block.file != 0) return true;
  if (block.bytes.empty()) return false;
  if (!make_room_on_disk(static_cast<std::int64_t>(block.bytes.size()), node->payload.rank)) {
    return false;
  }
  return store_->write(block, node->space, path_of(last_with(node, block)));
}

/// Drops files of nodes that rank below `rank`. Returns whether n bytes fit.
bool RadixTiers::make_room_on_disk(std::int64_t n_bytes, RadixNodeState::Rank rank) {
  const RadixState::Order& leaves = state_.stored_leaves();
  for (auto it = leaves.begin(); !store_->fits_disk(n_bytes);) {
    if (it == leaves.end() || it->first >= rank) return false;
    RadixNode* leaf = (it++)->second;
    const auto& blocks = leaf->payload.blocks;
    if (blocks.empty() || blocks.back()->file == 0) continue;
    metrics_.n_dropped_disk += drop_last_block(leaf);
    store_->reap();
    it = leaves.begin();
  }
  return true;
}

void RadixTiers::adopt_files() {
  std::vector<DiskTier::Entry> entries = store_->disk()->take_entries();  // oldest first
  // Scores in the order of age, lower than all others.
  std::vector<std::pair<DiskTier::Entry, double>> scored;
  for (DiskTier::Entry& entry : entries) {
    const auto n_younger = static_cast<double>(entries.size() - scored.size());
    scored.emplace_back(std::move(entry), -n_younger);
  }
  std::ranges::stable_sort(scored, {}, [](const auto& item) { return item.first.begin; });
  for (const auto& [entry, score] : scored) adopt(entry, score);
}

void RadixTiers::adopt(const DiskTier::Entry& entry, double score) {
  const RadixState::Tree::Match found = state_.tree().find(entry.space, entry.tokens);
  const auto end = static_cast<Pos>(entry.tokens.size());
  if (found.n < entry.begin || found.n == end) {  // its beginning is lost, or it is there twice
    store_->disk()->remove(entry.id);
    return;
  }
  RadixNode* parent = found.n == 0 ? state_.root(entry.space) : found.node;
  if (found.n > 0 && found.n < parent->end()) parent = state_.split(parent, found.n);
  RadixNode* child = state_.add_child(parent, std::span(entry.tokens).subspan(found.n));
  child->payload.usage = {1, 0, score};
  child->payload.blocks.push_back(store_->adopt(entry.begin, end, entry.id));
  state_.reindex(parent);
  state_.reindex(child);
}

bool RadixTiers::worth_restoring(const RadixNode& node, Pos n) const {
  const CostEstimates& c = options_.costs;
  double ns = 0;
  for (const auto& block : node.payload.blocks) {
    const double n_loaded = block->end - block->begin;
    ns += c.load_call_ns + n_loaded * c.load_token_ns;
    if (block->bytes.empty()) ns += n_loaded * c.disk_read_token_ns;
    if (block->end >= node.begin + n) break;
  }
  return ns < n * c.prefill_token_ns;
}

/// The stored child whose edge begins like `tokens`, or null.
RadixNode* RadixTiers::stored_child(const RadixNode* node, std::span<const TokenId> tokens) const {
  if (node == nullptr || node->end() >= static_cast<Pos>(tokens.size())) return nullptr;
  RadixNode* child = node->child(tokens[node->end()]);
  return child != nullptr && child->payload.stored() ? child : nullptr;
}

std::int32_t RadixTiers::n_cells_to_restore(const RadixNode* node,
                                            std::span<const TokenId> tokens) const {
  const RadixNode* child = stored_child(node, tokens);
  if (child == nullptr) return 0;
  const KvBlock& block = *child->payload.blocks.front();
  return block.end - block.begin;
}

std::optional<PrefixCache::Restore> RadixTiers::next_restore(const RadixNode* node,
                                                             std::span<const TokenId> tokens) {
  RadixNode* child = stored_child(node, tokens);
  if (child == nullptr) return {};
  const std::span<const TokenId> rest = tokens.subspan(child->begin);
  PrefixCache::Restore piece{child->payload.blocks.front(), child->begin, 0, {}};
  piece.end = std::min(child->begin + RadixState::Tree::common(*child, rest), piece.block->end);
  if (piece.block->bytes.empty() && piece.block->file != 0) {
    auto data = store_->disk()->read(piece.block->file, tokens.first(piece.end));
    if (data) piece.from_file = std::move(*data);
  }
  if (!piece.data().empty()) return piece;
  ++metrics_.n_damaged;
  make_ghost(child);
  return {};
}

void RadixTiers::restored(const RadixNode* node, const PrefixCache::Restore& piece, bool loaded) {
  if (loaded) {
    (piece.from_file.empty() ? metrics_.n_from_ram : metrics_.n_from_disk) +=
        piece.end - piece.begin;
    return;
  }
  ++metrics_.n_damaged;
  for (const auto& [token, child] : node->children) {
    if (!child->payload.stored() || child->payload.blocks.front() != piece.block) continue;
    make_ghost(child.get());
    return;
  }
}

void RadixTiers::start_flush() {
  flushing_ = true;
  state_.tree().for_each([this](RadixNode& node) {
    if (!node.is_root()) to_flush_.push_back(&node);
  });
  // A stack: the highest score last, and of equal scores the parents, which were visited first.
  std::ranges::reverse(to_flush_);
  std::ranges::stable_sort(to_flush_, {},
                           [](const RadixNode* node) { return node->payload.usage.score; });
}

bool RadixTiers::flush_next(std::vector<KvOp>& ops) {
  if (store_->disk() == nullptr) return false;
  if (!flushing_) start_flush();
  while (!to_flush_.empty()) {
    RadixNode* node = to_flush_.back();
    to_flush_.pop_back();
    if (node->payload.held) {
      const std::size_t n_before = ops.size();
      save(node, holder_of(*node), ops);
      if (ops.size() > n_before) return true;
      continue;
    }
    for (const auto& block : node->payload.blocks) write_to_disk(node, *block);
  }
  return false;
}

void RadixTiers::remove_unheld() {
  std::vector<RadixNode*> tops;
  state_.tree().for_each([&tops](RadixNode& node) {
    if (!node.is_root() && !node.payload.held &&
        (node.parent->is_root() || node.parent->payload.held)) {
      tops.push_back(&node);
    }
  });
  for (RadixNode* node : tops) remove(node);
}

void RadixTiers::clear_files() {
  state_.tree().for_each([](RadixNode& node) { node.payload.blocks.clear(); });
  if (store_->disk() != nullptr) store_->disk()->clear();
}

void RadixTiers::forget_all() {
  store_->reap();
  to_flush_.clear();
  pending_saves_.clear();
}

}  // namespace llamaherd

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "cache/block_store.h"
#include "cache/radix_cache.h"

namespace llamaherd {

/// A prefix cache with `leaves` paths, each sharing a quarter with every fourth path, and requests
/// for them. KV operations are discarded.
class CachedLeaves {
 public:
  static constexpr Pos kTail = 30;
  static constexpr int kPrefixes = 4;

  CachedLeaves(int n_leaves, Pos n_match) : n_match_(n_match), leaves_(n_leaves) {
    std::vector<std::vector<TokenId>> prefixes(kPrefixes);
    for (auto& prefix : prefixes) append_random(prefix, n_match / 4);
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      leaves_[i] = prefixes[i % kPrefixes];
      append_random(leaves_[i], n_match + kTail - n_match / 4);
    }
    order_.resize(leaves_.size());
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = i;
    std::ranges::shuffle(order_, random_);
  }

  /// Builds a cache of these leaves with room for `n_free` more tokens.
  void build(std::int32_t n_free) {
    const auto n_leaves = static_cast<std::int32_t>(leaves_.size());
    const std::int32_t n_shared = std::min(n_leaves, kPrefixes) * (n_match_ / 4);
    const std::int32_t n_cells = n_shared + n_leaves * (n_match_ + kTail - n_match_ / 4) + n_free;
    cache_ =
        std::make_unique<RadixCache>(RadixCache::Options{1, n_cells, 1, 2 * n_leaves + 8, 256, {}},
                                     std::make_unique<BlockStore>(0, nullptr));
    for (const auto& leaf : leaves_) request(leaf);
  }

  /// A prompt whose first n tokens, and no more, match the next leaf.
  std::vector<TokenId> prompt(Pos n) {
    const std::vector<TokenId>& leaf = leaves_[order_[next_++ % order_.size()]];
    std::vector<TokenId> tokens(leaf.begin(), leaf.begin() + n);
    append_random(tokens, kTail);
    return tokens;
  }

  Pos match(std::span<const TokenId> prompt) const { return cache_->match(0, prompt).n_held; }

  void request(std::span<const TokenId> prompt) {
    const Pos n = match(prompt);
    cache_->attach(0, 0, prompt.first(n), n, ops_);
    cache_->make_room(static_cast<std::int32_t>(prompt.size()) - n, ops_);
    cache_->publish(0, prompt, true, ops_);
    cache_->release(0, prompt, ops_);
    ops_.clear();
  }

  /// Number of requests that leaves the number of leaves about the same.
  std::int64_t n_requests() const { return std::max<std::int64_t>(1, leaves_.size() / 10); }
  std::int32_t n_new() const { return static_cast<std::int32_t>(n_requests()) * kTail; }

 private:
  // Never repeats a token after a branch point: another prompt would match one more token.
  void append_random(std::vector<TokenId>& tokens, Pos n) {
    tokens.push_back(next_id_++);
    for (Pos i = 1; i < n; ++i) tokens.push_back(static_cast<TokenId>(random_() % 32000));
  }

  std::mt19937 random_{1};
  TokenId next_id_ = 32000;
  Pos n_match_;
  std::vector<std::vector<TokenId>> leaves_;
  std::vector<std::size_t> order_;
  std::size_t next_ = 0;
  std::unique_ptr<RadixCache> cache_;
  std::vector<KvOp> ops_;
};

}  // namespace llamaherd

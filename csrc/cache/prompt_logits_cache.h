#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "cache/prefix_cache.h"
#include "common/types.h"

namespace llamaherd {

/// Logits after the last token of recent prompts, so that a prompt that is repeated, or submitted n
/// times at once, is sampled without recomputing its last row. Evicts the least recently used.
class PromptLogitsCache {
 public:
  explicit PromptLogitsCache(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  void put(CacheNamespace space, std::span<const TokenId> prompt, std::span<const float> logits);

  /// The row, shape (n_vocab,), valid until the next put(); empty if there is none.
  std::span<const float> find(CacheNamespace space, std::span<const TokenId> prompt);

  void clear();

 private:
  struct Entry {
    std::uint64_t hash;
    CacheNamespace space;
    std::vector<TokenId> prompt;
    std::vector<float> logits;

    std::size_t n_bytes() const {
      return prompt.size() * sizeof(TokenId) + logits.size() * sizeof(float);
    }
  };
  using Entries = std::list<Entry>;

  Entries::iterator lookup(std::uint64_t hash, CacheNamespace space,
                           std::span<const TokenId> prompt);

  std::size_t max_bytes_;
  std::size_t n_bytes_ = 0;
  Entries entries_;  // most recently used first
  std::unordered_map<std::uint64_t, Entries::iterator> by_hash_;
};

}  // namespace llamaherd

#include "cache/prompt_logits_cache.h"

#include <algorithm>

namespace llamaherd {
namespace {

std::uint64_t hash_of(CacheNamespace space, std::span<const TokenId> prompt) {
  std::uint64_t hash = space ^ prompt.size();
  for (const TokenId token : prompt) {
    hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace

PromptLogitsCache::Entries::iterator PromptLogitsCache::lookup(std::uint64_t hash,
                                                               CacheNamespace space,
                                                               std::span<const TokenId> prompt) {
  const auto it = by_hash_.find(hash);
  if (it == by_hash_.end()) return entries_.end();
  const Entry& entry = *it->second;
  const bool same = entry.space == space && std::ranges::equal(entry.prompt, prompt);
  return same ? it->second : entries_.end();
}

void PromptLogitsCache::put(CacheNamespace space, std::span<const TokenId> prompt,
                            std::span<const float> logits) {
  const std::uint64_t hash = hash_of(space, prompt);
  if (const auto known = by_hash_.find(hash); known != by_hash_.end()) {
    n_bytes_ -= known->second->n_bytes();
    entries_.erase(known->second);
    by_hash_.erase(known);
  }
  entries_.push_front(
      {hash, space, {prompt.begin(), prompt.end()}, {logits.begin(), logits.end()}});
  by_hash_[hash] = entries_.begin();
  n_bytes_ += entries_.front().n_bytes();
  while (n_bytes_ > max_bytes_) {
    n_bytes_ -= entries_.back().n_bytes();
    by_hash_.erase(entries_.back().hash);
    entries_.pop_back();
  }
}

std::span<const float> PromptLogitsCache::find(CacheNamespace space,
                                               std::span<const TokenId> prompt) {
  const auto it = lookup(hash_of(space, prompt), space, prompt);
  if (it == entries_.end()) return {};
  entries_.splice(entries_.begin(), entries_, it);
  return it->logits;
}

void PromptLogitsCache::clear() {
  entries_.clear();
  by_hash_.clear();
  n_bytes_ = 0;
}

}  // namespace llamaherd

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "cache/prompt_logits_cache.h"

namespace llamaherd {
namespace {

using Prompt = std::vector<TokenId>;
using Row = std::vector<float>;

constexpr std::size_t kRowBytes = 8 * sizeof(float);
constexpr std::size_t kEntryBytes = kRowBytes + 2 * sizeof(TokenId);

Row row(float value) { return Row(8, value); }

Row found(PromptLogitsCache& logits, CacheNamespace space, const Prompt& prompt) {
  const auto span = logits.find(space, prompt);
  return {span.begin(), span.end()};
}

/// What hash_of() makes of a prompt, for those of three tokens in space 0, before the last one.
std::uint64_t mixed(TokenId first, TokenId second) {
  std::uint64_t hash = 3;
  for (const TokenId token : {first, second}) {
    hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  return hash;
}

/// Two prompts of one hash: the last token makes up for the low half of what the first two were
/// mixed to, and their high halves agree.
std::pair<Prompt, Prompt> colliding_prompts() {
  std::map<std::uint64_t, Prompt> by_high;
  std::mt19937 rng(6);
  for (int i = 0; i < 1000000; ++i) {
    const Prompt begin = {static_cast<TokenId>(rng() >> 1), static_cast<TokenId>(rng() >> 1)};
    const std::uint64_t hash = mixed(begin[0], begin[1]);
    const auto [it, fresh] = by_high.emplace(hash >> 32, begin);
    if (fresh || it->second == begin) continue;
    const Prompt& other = it->second;
    const auto last = static_cast<TokenId>(hash ^ mixed(other[0], other[1]) ^ 5);
    return {{other[0], other[1], 5}, {begin[0], begin[1], last}};
  }
  return {};
}

TEST(PromptLogitsCache, GivesTheRowOfExactlyThisPromptAndSpace) {
  PromptLogitsCache logits(1 << 20);
  logits.put(0, Prompt{1, 2}, row(1));
  logits.put(1, Prompt{1, 2}, row(2));
  logits.put(0, Prompt{1, 2, 3}, row(3));
  EXPECT_EQ(found(logits, 0, {1, 2}), row(1));
  EXPECT_EQ(found(logits, 1, {1, 2}), row(2));
  EXPECT_EQ(found(logits, 0, {1, 2, 3}), row(3));
  for (const Prompt& other : {Prompt{1}, Prompt{2, 1}, Prompt{1, 2, 4}, Prompt{}}) {
    EXPECT_TRUE(logits.find(0, other).empty());
  }
  EXPECT_TRUE(logits.find(2, Prompt{1, 2}).empty());
}

TEST(PromptLogitsCache, APromptPutAgainIsReplaced) {
  PromptLogitsCache logits(2 * kEntryBytes);
  for (float value = 0; value < 20; ++value) {
    logits.put(0, Prompt{1, 2}, row(value));
    logits.put(0, Prompt{3, 4}, row(-value));
  }
  EXPECT_EQ(found(logits, 0, {1, 2}), row(19));
  EXPECT_EQ(found(logits, 0, {3, 4}), row(-19));
}

TEST(PromptLogitsCache, TheLeastRecentlyUsedGoAtTheByteBound) {
  PromptLogitsCache logits(3 * kEntryBytes);
  for (TokenId i = 0; i < 3; ++i) logits.put(0, Prompt{i, i}, row(static_cast<float>(i)));
  EXPECT_FALSE(logits.find(0, Prompt{0, 0}).empty());
  logits.put(0, Prompt{9, 9}, row(9));
  EXPECT_TRUE(logits.find(0, Prompt{1, 1}).empty());
  for (TokenId kept : {0, 2, 9}) EXPECT_FALSE(logits.find(0, Prompt{kept, kept}).empty());
}

TEST(PromptLogitsCache, WhatIsLargerThanTheBoundIsNotKept) {
  PromptLogitsCache logits(kEntryBytes);
  logits.put(0, Prompt{1, 2, 3}, row(1));
  EXPECT_TRUE(logits.find(0, Prompt{1, 2, 3}).empty());
  logits.put(0, Prompt{1, 2}, row(1));
  EXPECT_FALSE(logits.find(0, Prompt{1, 2}).empty());
  PromptLogitsCache none(0);
  none.put(0, Prompt{1}, row(1));
  EXPECT_TRUE(none.find(0, Prompt{1}).empty());
}

TEST(PromptLogitsCache, ClearForgetsAll) {
  PromptLogitsCache logits(1 << 20);
  logits.put(0, Prompt{1, 2}, row(1));
  logits.clear();
  EXPECT_TRUE(logits.find(0, Prompt{1, 2}).empty());
  logits.put(0, Prompt{1, 2}, row(2));
  EXPECT_EQ(found(logits, 0, {1, 2}), row(2));
}

TEST(PromptLogitsCache, TwoPromptsOfTheSameHashAreNotMistaken) {
  PromptLogitsCache logits(1 << 20);
  const std::pair<Prompt, Prompt> pair = colliding_prompts();
  ASSERT_FALSE(pair.first.empty());
  logits.put(0, pair.first, row(1));
  EXPECT_TRUE(logits.find(0, pair.second).empty());
  logits.put(0, pair.second, row(2));
  EXPECT_TRUE(logits.find(0, pair.first).empty()) << "they collide: one of them is kept";
  EXPECT_EQ(found(logits, 0, pair.second), row(2));
}

TEST(PromptLogitsCache, AgreesWithAMapOverRandomOperations) {
  std::mt19937 rng(3);
  PromptLogitsCache logits(40 * kEntryBytes);
  std::map<std::pair<CacheNamespace, Prompt>, float> twin;
  int n_found = 0;
  for (int i = 0; i < 50000; ++i) {
    const CacheNamespace space = rng() % 2;
    Prompt prompt(1 + rng() % 4);
    for (TokenId& token : prompt) token = static_cast<TokenId>(rng() % 3);
    if (rng() % 2) {
      const auto value = static_cast<float>(i);
      logits.put(space, prompt, row(value));
      twin[{space, prompt}] = value;
    } else if (const Row kept = found(logits, space, prompt); !kept.empty()) {
      ++n_found;
      ASSERT_EQ(kept, row(twin.at({space, prompt})));
    }
    if (rng() % 5000 == 0) logits.clear();
  }
  EXPECT_GT(n_found, 2000);
}

}  // namespace
}  // namespace llamaherd

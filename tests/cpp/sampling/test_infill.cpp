#include "sampling/infill.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "sampling/sampler.h"

namespace llamaherd {
namespace {

/// The words as tokens, then one that ends the text.
Vocabulary table_of(const std::vector<std::string>& words) {
  Vocabulary table;
  for (const std::string& word : words) table.add(word, false);
  table.add("", true, "<end>");
  return table;
}

/// Weights by token that are left of the given ones, relative to their sum before.
std::map<TokenId, float> left_of(const Vocabulary& table, const std::vector<float>& weights) {
  std::vector<TokenLogit> candidates;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) candidates.push_back({static_cast<TokenId>(i), 0, weights[i]});
  }
  keep_sure(candidates, table);
  std::map<TokenId, float> left;
  for (const TokenLogit& c : candidates) left[c.token] = c.weight;
  return left;
}

using Left = std::map<TokenId, float>;

TEST(Infill, KeepsEndTokensWhereTheyAreLikely) {
  const Vocabulary table = table_of({"a", "b", "c"});
  EXPECT_EQ(left_of(table, {0.5f, 0.2f, 0.2f, 0.1f}), (Left{{3, 0.1f}}));  // 3 * 4 * 0.1 > 0.9
  EXPECT_EQ(left_of(table, {0.9f, 0, 0, 0.1f}).size(), 2u);                // 3 * 2 * 0.1 < 0.9
}

TEST(Infill, MergesTokensThatBeginAlikeIntoTheLikeliest) {
  const Vocabulary table = table_of({"hel", "hell", "hello", "dummy"});
  Left left = left_of(table, {0.5f, 0.2f, 0.1f, 0.1f});
  ASSERT_EQ(left.size(), 1u);
  EXPECT_FLOAT_EQ(left[0], 0.8f);
  left = left_of(table, {0.2f, 0.2f, 0.5f, 0.1f});
  ASSERT_EQ(left.size(), 1u);
  EXPECT_FLOAT_EQ(left[2], 0.9f);
}

TEST(Infill, RemovesTokensOfSmallShare) {
  const Vocabulary table = table_of({"a", "b", "c", "d", "e", "f"});
  EXPECT_EQ(left_of(table, {0.61f, 0.28f, 0.11f}), (Left{{0, 0.61f}}));
  EXPECT_EQ(left_of(table, {0.45f, 0.4f, 0.15f}), (Left{{0, 0.45f}, {1, 0.4f}}));
  EXPECT_EQ(left_of(table, {0.19f, 0.18f, 0.17f, 0.16f, 0.15f, 0.15f}), Left{});
}

TEST(Infill, ASamplerEndsTheTextWhereItIsUnsure) {
  const Vocabulary table = table_of({"a", "b", "c", "d", "e", "f"});
  SamplingParams params;
  params.infill = true;
  params.top_k = 40;
  params.top_p = 0.99f;
  RowScratch scratch;
  const auto token = [&](std::vector<float> row, std::uint64_t seed = 1) {
    return *Sampler(params, seed, table, {}, 10).sample(row, scratch);
  };
  EXPECT_EQ(token({0, 0, 0, 0, 0, 0, -9}), 6);  // each has a sixth
  EXPECT_EQ(token({5, 0, 0, 0, 0, 0, -9}), 0);
  EXPECT_EQ(token({5, 0, 0, 0, 0, 0, 5}), 6);
  std::map<TokenId, int> n;
  for (std::uint64_t seed = 0; seed < 400; ++seed) ++n[token({5, 4.8f, -9, -9, -9, -9, -9}, seed)];
  EXPECT_EQ(n.size(), 2u);
  EXPECT_GT(n[1], 120);
  params.ignore_eos = true;
  EXPECT_EQ(token({0, 0.1f, 0, 0, 0, 0, 9}), 1);  // what would end it is forbidden
  params.top_k = 2;                               // of fewer tokens than there are
  params.ignore_eos = false;
  EXPECT_EQ(token({5, 0, 0, 0, 0, 0, -9}), 0);
  params.top_k = 0;
  EXPECT_EQ(token({5, 0, 0, 0, 0, 0, -9}), 0);
  EXPECT_EQ(token(std::vector<float>(7, 0)), 6);
}

}  // namespace
}  // namespace llamaherd

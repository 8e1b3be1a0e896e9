#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "budget.h"

namespace llamaherd {
namespace {

struct Row {
  const char* name;
  std::vector<std::int32_t> n_pending;
  Budget budget;
  std::vector<std::int32_t> n_granted;
};

std::vector<std::int32_t> pack(const std::vector<std::int32_t>& n_pending, const Budget& budget) {
  std::vector<std::int32_t> n_granted(n_pending.size(), -1);
  pack_tokens(n_pending, budget, n_granted);
  return n_granted;
}

TEST(Budget, GrantsAsTabulated) {
  const std::vector<Row> rows = {
      {"nobody", {}, {512, 64}, {}},
      {"decode only", {1, 1, 1}, {512, 64}, {1, 1, 1}},
      {"every decode row, whatever the budget", {1, 1, 1}, {2, 1}, {1, 1, 1}},
      {"one whole prompt", {100}, {512, 64}, {100}},
      {"a prompt that just fits", {512}, {512, 64}, {512}},
      {"a chunk ends on a tile", {600}, {500, 64}, {448}},
      {"a chunk below a tile is not cut", {600}, {50, 64}, {50}},
      {"an exact tile", {65}, {64, 64}, {64}},
      {"fewer prefill rows beside decode", {1, 600}, {512, 128}, {1, 128}},
      {"decode rows count against the step", {600, 1, 1}, {130, 256}, {128, 1, 1}},
      {"decode rows take the step, a prompt gets one", {1, 1, 9}, {2, 8}, {1, 1, 1}},
      {"a prompt before decode rows in order", {9, 1, 1}, {2, 8}, {1, 1, 1}},
      {"prompts in order", {100, 100, 100}, {250, 64}, {100, 100, 0}},
      {"a later prompt gets whole tiles only", {100, 300}, {250, 64}, {100, 128}},
      {"a later prompt that fits whole passes one that does not",
       {100, 100, 30},
       {150, 64},
       {100, 0, 30}},
      {"the last token of a prompt is a decode row", {1, 70}, {64, 64}, {1, 63}},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(pack(row.n_pending, row.budget), row.n_granted) << row.name;
  }
}

TEST(Budget, KeepsItsPromisesOnRandomQueues) {
  std::mt19937 rng(1);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::int32_t> n_pending(1 + rng() % 8);
    for (auto& n : n_pending) n = rng() % 2 ? 1 : 1 + static_cast<std::int32_t>(rng() % 400);
    const Budget budget{1 + static_cast<std::int32_t>(rng() % 512),
                        1 + static_cast<std::int32_t>(rng() % 256)};
    const auto n_granted = pack(n_pending, budget);
    std::int32_t n_decode = 0, n_prefill = 0, first_prompt = -1;
    for (std::size_t i = 0; i < n_pending.size(); ++i) {
      ASSERT_GE(n_granted[i], 0);
      ASSERT_LE(n_granted[i], n_pending[i]);
      if (n_pending[i] == 1) {
        ASSERT_EQ(n_granted[i], 1);
        ++n_decode;
        continue;
      }
      if (first_prompt < 0) {
        first_prompt = n_granted[i];
      } else if (n_granted[i] < n_pending[i]) {
        ASSERT_EQ(n_granted[i] % kChunkRows, 0);
      }
      n_prefill += n_granted[i];
    }
    ASSERT_NE(first_prompt, 0);
    if (n_decode > 0) {
      ASSERT_LE(n_prefill, budget.n_prefill_beside_decode);
    }
    ASSERT_LE(n_prefill, std::max(budget.n_rows - n_decode, 1));
  }
}

}  // namespace
}  // namespace llamaherd

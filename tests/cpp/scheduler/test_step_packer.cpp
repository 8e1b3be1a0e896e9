#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "scheduler/step_packer.h"
#include "support.h"

namespace llamaherd {
namespace {

using Grants = std::vector<std::vector<std::int32_t>>;  // by call, by candidate

Grants pack(const std::vector<Candidate>& candidates, const PackingOptions& options,
            const CostModel& model, std::int32_t n_waiting = 0) {
  Packer packer(options, 64);
  Grants grants;
  for (const PackedCall& call : packer.pack(candidates, {n_waiting, 0}, model)) {
    auto& granted = grants.emplace_back(candidates.size());
    for (const PackedCall::Item& item : call.items) granted[item.candidate] += item.n_rows;
  }
  return grants;
}

std::vector<Candidate> pending(const std::vector<std::int32_t>& n_pending) {
  std::vector<Candidate> candidates;
  for (std::int32_t n : n_pending) candidates.push_back({n, 0});
  return candidates;
}

struct Row {
  const char* name;
  std::vector<std::int32_t> n_pending;
  std::int32_t n_rows;
  Grants joint;  // where a call has a cost of its own
  Grants split;  // where it has none
};

TEST(Packing, PacksAsTabulated) {
  const std::vector<Row> rows = {
      {"nobody", {}, 512, {}, {}},
      {"decode only", {1, 1, 1}, 512, {{1, 1, 1}}, {{1, 1, 1}}},
      {"every decode row, whatever the budget", {1, 1, 1}, 2, {{1, 1, 1}}, {{1, 1, 1}}},
      {"one whole prompt", {100}, 512, {{100}}, {{100}}},
      {"a chunk ends on a tile", {600}, 500, {{448}}, {{448}}},
      {"a chunk below a tile is not cut", {600}, 50, {{50}}, {{50}}},
      {"one tile beside decode rows", {1, 600}, 512, {{1, 64}}, {{1, 0}, {0, 64}}},
      {"decode rows first, whatever the order", {600, 1}, 512, {{64, 1}}, {{0, 1}, {64, 0}}},
      {"decode rows take the step, a prompt gets one",
       {1, 1, 9},
       2,
       {{1, 1, 1}},
       {{1, 1, 0}, {0, 0, 1}}},
      {"prompts in order", {100, 100, 100}, 256, {{100, 100, 0}}, {{100, 100, 0}}},
      {"a later prompt gets whole tiles only", {100, 300}, 256, {{100, 128}}, {{100, 128}}},
      {"a later prompt that fits whole passes one that does not",
       {100, 100, 30},
       192,
       {{100, 64, 0}},
       {{100, 64, 0}}},
  };
  for (const Row& row : rows) {
    const auto candidates = pending(row.n_pending);
    EXPECT_EQ(pack(candidates, {row.n_rows, 4096}, CostModel(joint_calibration())), row.joint)
        << row.name;
    EXPECT_EQ(pack(candidates, {row.n_rows, 4096}, CostModel(split_calibration())), row.split)
        << row.name;
  }
}

TEST(Packing, TheChunkIsTheOneWhoseRowsCostLeast) {
  const CostModel model(Calibration{{{64, 64}, {256, 128}, {512, 200}, {1024, 600}}});
  EXPECT_EQ(pack(pending({4000}), {2048, 4096}, model), (Grants{{512}}));
  EXPECT_EQ(pack(pending({4000}), {300, 4096}, model), (Grants{{256}}));
}

TEST(Packing, PrefillTakesTheTimeBetweenTokensThatIsLeft) {
  const CostModel model(Calibration{{{1, 10}, {16, 16}, {64, 64}, {2048, 2048}}});
  const auto n_prefill = [&](double target_ns) {
    const Grants grants = pack(pending({1, 4000}), {1024, 4096, target_ns}, model);
    return grants.back()[1];
  };
  EXPECT_EQ(n_prefill(10 + 300), 256);
  EXPECT_EQ(n_prefill(10 + 65), 64);
  EXPECT_EQ(n_prefill(10 + 63), 32);
  EXPECT_EQ(n_prefill(5), 16);
  EXPECT_EQ(n_prefill(1e9), 1023 / 64 * 64);
}

TEST(Packing, TheTimeGrowsWithThePromptsInLine) {
  const CostModel model(split_calibration());
  EXPECT_EQ(pack(pending({1, 4000}), {1024, 4096}, model, 0).back()[1], 64);
  EXPECT_EQ(pack(pending({1, 4000}), {1024, 4096}, model, 2).back()[1], 3 * 64);
  EXPECT_EQ(pack(pending({1, 4000}), {1024, 4096}, model, 50).back()[1], Packer::kMaxWidening * 64);
  EXPECT_EQ(pack(pending({1, 1, 1, 4000}), {1024, 4096}, model, 2).back()[3], 64);
}

TEST(Packing, AttentionDecidesWhoSharesACall) {
  Calibration calibration = joint_calibration();
  calibration.many.attended_ns = 1e3;
  const CostModel model(calibration);
  EXPECT_EQ(pack({{1, 10}, {300, 0}}, {512, 4096}, model).size(), 1u);
  // A tile with the decode row in it would attend to its 4,000 cells 64 times.
  EXPECT_EQ(pack({{1, 4000}, {300, 0}}, {512, 4096}, model).size(), 2u);
}

TEST(Packing, RowsThatFillUpACallAreThoseOfAPromptThatGotNone) {
  Calibration calibration{{{1, 1}, {2, 30}, {3, 30}, {4, 3}, {64, 64}}};
  const CostModel model(calibration);
  PackingOptions options{64, 4096};
  EXPECT_EQ(pack(pending({1, 1, 1}), options, model), (Grants{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}));
  calibration.points[0].ns = 2;
  const CostModel dear(calibration);
  options.may_pad = true;
  Packer packer(options, 8);
  EXPECT_EQ(packer.pack(pending({1, 1, 1}), {}, dear)[0].n_pad, 1);
  EXPECT_EQ(pack(pending({1, 1, 1, 300, 300}), options, dear),
            (Grants{{1, 1, 1, 0, 1}, {0, 0, 0, 61, 0}}));
}

TEST(Packing, RequestsTakeTurnsWhereThatServesThemMoreOften) {
  const Calibration calibration{{{1, 40}, {4, 60}, {5, 140}, {kChunkRows, 1e4}}};
  const CostModel model(calibration);
  Packer packer({512, 4096}, 64);
  std::vector<Candidate> candidates = pending({1, 1, 1, 1, 1});
  std::vector<int> n_rows(5);
  for (std::int64_t step = 1; step <= 10; ++step) {
    const auto calls = packer.pack(candidates, {}, model);
    ASSERT_EQ(calls.size(), 1u);
    ASSERT_EQ(calls[0].items.size(), 4u);
    std::vector<bool> missed(5, true);
    for (const PackedCall::Item& item : calls[0].items) {
      ++n_rows[item.candidate];
      missed[item.candidate] = false;
    }
    for (std::size_t i = 0; i < 5; ++i) {
      if (missed[i]) candidates[i].last_missed = step;
    }
  }
  EXPECT_EQ(n_rows, (std::vector<int>{8, 8, 8, 8, 8}));
  candidates.push_back({100, 0, 0});
  std::size_t n_decode = 0;
  for (const PackedCall& call : packer.pack(candidates, {}, model)) {
    for (const PackedCall::Item& item : call.items) n_decode += item.candidate < 5;
  }
  EXPECT_EQ(n_decode, 5u) << "all of them beside a prompt";
}

TEST(Packing, KeepsItsPromisesOnRandomQueues) {
  std::mt19937 rng(1);
  BackendInfo info;
  for (int round = 0; round < 20000; ++round) {
    info.n_batch = 12 + static_cast<std::int32_t>(rng() % 500);
    std::vector<Candidate> candidates(1 + rng() % 12);
    for (Candidate& c : candidates) {
      c.n_pending = rng() % 2 ? 1 : 1 + static_cast<std::int32_t>(rng() % 400);
      c.kv_len = static_cast<Pos>(rng() % 1000);
    }
    const PlanOptions plan = random_plan(info, rng);
    Packer packer(plan.packing, 64);
    std::vector<std::int32_t> n_granted(candidates.size());
    std::int32_t n_decode = 0, n_prefill = 0, n_calls = 0;
    for (const PackedCall& call : packer.pack(candidates, {0, 100}, CostModel(*plan.calibration))) {
      ++n_calls;
      ASSERT_FALSE(call.items.empty());
      ASSERT_TRUE(plan.packing.may_pad || call.n_pad == 0);
      bool any_prefill = false;
      std::int32_t n_rows = call.n_pad;
      for (const PackedCall::Item& item : call.items) {
        ASSERT_EQ(n_granted.at(item.candidate), 0) << "twice";
        ASSERT_GE(item.n_rows, 1);
        n_granted[item.candidate] = item.n_rows;
        const bool decodes = candidates[item.candidate].n_pending == 1;
        ASSERT_FALSE(decodes && any_prefill) << "a decode row behind prefill";
        any_prefill |= !decodes;
        (decodes ? n_decode : n_prefill) += item.n_rows;
        n_rows += item.n_rows;
      }
      ASSERT_LE(n_rows, plan.packing.max_call_rows);
    }
    bool first = true;
    for (std::size_t i = 0; i < candidates.size(); ++i) {
      ASSERT_LE(n_granted[i], candidates[i].n_pending);
      if (candidates[i].n_pending == 1) {
        ASSERT_TRUE(n_granted[i] == 1 || (n_prefill == 0 && n_decode > 0)) << "no prompt in turns";
      } else {
        ASSERT_TRUE(!first || n_granted[i] > 0) << "the first prompt got nothing";
        first = false;
      }
    }
    ASSERT_LE(n_calls, n_decode + 1);
    ASSERT_LE(n_prefill,
              std::max(plan.packing.max_prefill_rows, 1) + DecodeBatching::kMaxPad * n_calls);
  }
}

}  // namespace
}  // namespace llamaherd

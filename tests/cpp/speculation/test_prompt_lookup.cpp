#include "speculation/prompt_lookup.h"

#include <gtest/gtest.h>

#include "speculation/speculation_policy.h"
#include "support.h"

namespace llamaherd {
namespace {

std::vector<TokenId> draft_tokens(std::vector<TokenId> tokens, std::size_t n_most = 10) {
  std::vector<TokenId> out{99};
  propose_ngram(tokens, n_most, out);
  return out;
}

TEST(PromptLookup, TakesWhatStoodBehindTheLongestMatchTheLatestOfEquals) {
  using Tokens = std::vector<TokenId>;
  EXPECT_EQ(draft_tokens({}), Tokens{});
  EXPECT_EQ(draft_tokens({1}), Tokens{});
  EXPECT_EQ(draft_tokens({1, 1}), Tokens{});
  EXPECT_EQ(draft_tokens({1, 2, 3, 4}), Tokens{});
  EXPECT_EQ(draft_tokens({1, 2, 3, 9, 2}), Tokens{}) << "one token is no place";
  EXPECT_EQ(draft_tokens({1, 2, 3, 4, 1, 2}), (Tokens{3, 4, 1, 2}));
  EXPECT_EQ(draft_tokens({1, 2, 3, 4, 1, 2}, 1), (Tokens{3}));
  EXPECT_EQ(draft_tokens({1, 2, 3, 4, 1, 2}, 0), Tokens{});
  EXPECT_EQ(draft_tokens({1, 2, 3, 1, 2, 5, 1, 2}), (Tokens{5, 1, 2})) << "the latest";
  EXPECT_EQ(draft_tokens({7, 1, 2, 3, 6, 1, 2, 5, 7, 1, 2}, 1), (Tokens{3})) << "the longest";
  EXPECT_EQ(draft_tokens({4, 4, 4}), (Tokens{4})) << "a place may reach into the end";
}

std::vector<std::int32_t> choose(SpeculationPolicy& drafter,
                                 const std::vector<DraftCandidate>& candidates, std::int32_t n_most,
                                 const CostModel& model) {
  ShapeSum decode;
  for (const DraftCandidate& candidate : candidates) decode.add(candidate.begin, 1);
  const auto n = drafter.choose(candidates, decode, 1000, n_most, model);
  return {n.begin(), n.end()};
}

TEST(Drafts, FillRowsThatCostLittle) {
  using Rows = std::vector<std::int32_t>;
  const CostModel free(Calibration{{{1, 100}, {64, 100}}});
  const CostModel flat(Calibration{{{1, 100}, {64, 110}}});
  const CostModel steep(Calibration{{{1, 100}, {64, 6400}}});
  const CostModel half(Calibration{{{1, 100}, {2, 130}, {3, 160}, {4, 190}}});
  const std::vector<DraftCandidate> good{{8, 0.9}}, none{{0, 0.9}}, mixed{{8, 0.9}, {0, 0.9}};
  const std::vector<DraftCandidate> bad{{8, 0.03}}, both{{8, 0.95}, {8, 0.95}};
  SpeculationPolicy drafter(64);
  EXPECT_EQ(choose(drafter, good, 63, flat), Rows{8});
  EXPECT_EQ(choose(drafter, good, 3, flat), Rows{3});
  EXPECT_EQ(choose(drafter, good, 63, steep), Rows{});
  EXPECT_EQ(choose(drafter, none, 63, flat), Rows{});
  EXPECT_EQ(choose(drafter, bad, 63, flat), Rows{}) << "too little gained";
  EXPECT_EQ(choose(drafter, mixed, 63, free), (Rows{8, 0}));
  EXPECT_EQ(choose(drafter, mixed, 2, half), Rows{}) << "others do not wait for it";
  EXPECT_EQ(choose(drafter, both, 2, half), (Rows{1, 1}));
}

TEST(Drafts, BehindALongTextCostWhatTheyAttendTo) {
  using Rows = std::vector<std::int32_t>;
  const CostModel attentive(Calibration{{{1, 100}, {64, 100}}, {1, 1e-6}, {1, 1e-6}});
  SpeculationPolicy drafter(64);
  EXPECT_EQ(choose(drafter, {{4, 0.9, 1}}, 63, attentive), Rows{4});
  EXPECT_EQ(choose(drafter, {{4, 0.9, 1000}}, 63, attentive), Rows{});
}

TEST(Drafts, LargeCallsThatTookLongerThanPredictedAreTriedAgainLater) {
  using Rows = std::vector<std::int32_t>;
  const CostModel flat(Calibration{{{1, 100}, {64, 110}}});
  const std::vector<DraftCandidate> good{{3, 0.9}}, mixed{{8, 0.9}, {0, 0.9}};
  SpeculationPolicy drafter(1);
  EXPECT_EQ(choose(drafter, good, 63, flat), Rows{3});
  EXPECT_EQ(choose(drafter, mixed, 63, flat), Rows{}) << "not while somebody does not guess";
  for (int i = 0; i < 100; ++i) drafter.observe(1, 4);
  EXPECT_EQ(choose(drafter, good, 63, flat), Rows{3}) << "that was no large call";
  for (int i = 0; i < 100; ++i) drafter.observe(9, 4);
  int n_passed = 0;
  while (choose(drafter, good, 63, flat).empty()) ASSERT_LT(++n_passed, 100000);
  EXPECT_GT(n_passed, 100);
}

TEST(Drafts, FollowHowTheyDid) {
  AcceptanceTracker record;
  const double first = record.acceptance();
  record.observe(4, 4);
  EXPECT_GT(record.acceptance(), first);
  for (int i = 0; i < 100; ++i) record.observe(4, 0);
  EXPECT_LT(record.acceptance(), 0.01);
}

class Lookup : public ::testing::TestWithParam<float> {
 protected:
  static HerdOptions options() {
    HerdOptions o = small_herd();
    o.fake.n_remembered = 1;
    o.fake.info.n_ctx = 512;
    o.plan.calibration = Calibration{{{1, 1000}, {64, 1010}}};
    return o;
  }
  static std::vector<Spec> specs() {
    std::vector<Spec> all;
    std::mt19937 rng(5);
    for (int i = 0; i < 12; ++i) {
      Spec spec = greedy(random_prompt(rng, 6), 60);
      spec.params.temperature = GetParam();
      spec.params.ignore_eos = true;
      spec.seed = rng();
      all.push_back(spec);
    }
    return all;
  }
};
INSTANTIATE_TEST_SUITE_P(Temperatures, Lookup, testing::Values(0.0f, 0.6f));

TEST_P(Lookup, TakesFewerStepsToTheSameOutput) {
  HerdOptions without = options();
  without.plan.prompt_lookup = false;
  Herd plain(without), drafting(options());
  EXPECT_EQ(run_together(plain, specs()), run_together(drafting, specs()));
  const Metrics metrics = drafting.engine.metrics();
  EXPECT_EQ(metrics.n_output_tokens, 12 * 60);
  EXPECT_EQ(plain.engine.metrics().n_drafted, 0);
  EXPECT_EQ(metrics.n_prefill_rows, plain.engine.metrics().n_prefill_rows);
  EXPECT_GT(metrics.n_draft_accepted, 0);
  if (GetParam() > 0) return;  // what is drawn repeats itself less
  EXPECT_GT(metrics.n_draft_accepted, 60);
  EXPECT_LT(drafting.n_steps, plain.n_steps * 9 / 10);
}

TEST_P(Lookup, GuessesAreJudgedThoughNoneIsWorthItsRow) {
  HerdOptions o = options();
  o.plan.calibration = Calibration{{{1, 100}, {64, 6400}}};
  o.plan.learns = false;
  Herd herd(o);
  Spec spec = specs().front();
  spec.params.temperature = 0;  // repeats itself
  const RequestId id = herd.submit(spec);
  for (int i = 0; i < 50; ++i) herd.step();
  EXPECT_EQ(herd.engine.metrics().n_drafted, 0);
  EXPECT_GT(herd.engine.find(id)->draft.acceptance.acceptance(), 0.8);
}

TEST_P(Lookup, IsOffWhereItIsNotAskedForOrCannotBe) {
  for (int how = 0; how < 4; ++how) {
    HerdOptions o = options();
    std::vector<Spec> some = specs();
    for (Spec& spec : some) {
      if (how == 0) spec.params.prompt_lookup = false;
      if (how == 1) spec.params.logprobs = 0;
      if (how == 2) spec.params.repetition_penalty = 1.1f;
    }
    if (how == 3) o.fake.info.partial_removal = false;
    Herd herd(o);
    run_together(herd, some);
    EXPECT_EQ(herd.engine.metrics().n_drafted, 0) << how;
  }
}

}  // namespace
}  // namespace llamaherd

#include "prompt_lookup.h"

#include <gtest/gtest.h>

#include "drafts.h"
#include "support.h"

namespace llamaherd {
namespace {

std::vector<TokenId> guesses(std::vector<TokenId> tokens, std::size_t n_most = 10) {
  std::vector<TokenId> out{99};
  guess_by_lookup(tokens, n_most, out);
  return out;
}

TEST(PromptLookup, TakesWhatStoodBehindTheLongestMatchTheLatestOfEquals) {
  using Tokens = std::vector<TokenId>;
  EXPECT_EQ(guesses({}), Tokens{});
  EXPECT_EQ(guesses({1}), Tokens{});
  EXPECT_EQ(guesses({1, 1}), Tokens{});
  EXPECT_EQ(guesses({1, 2, 3, 4}), Tokens{});
  EXPECT_EQ(guesses({1, 2, 3, 9, 2}), Tokens{}) << "one token is no place";
  EXPECT_EQ(guesses({1, 2, 3, 4, 1, 2}), (Tokens{3, 4, 1, 2}));
  EXPECT_EQ(guesses({1, 2, 3, 4, 1, 2}, 1), (Tokens{3}));
  EXPECT_EQ(guesses({1, 2, 3, 4, 1, 2}, 0), Tokens{});
  EXPECT_EQ(guesses({1, 2, 3, 1, 2, 5, 1, 2}), (Tokens{5, 1, 2})) << "the latest";
  EXPECT_EQ(guesses({7, 1, 2, 3, 6, 1, 2, 5, 7, 1, 2}, 1), (Tokens{3})) << "the longest";
  EXPECT_EQ(guesses({4, 4, 4}), (Tokens{4})) << "a place may reach into the end";
}

TEST(Drafts, FillRowsThatCostLittle) {
  const CostModel flat(Calibration{{{1, 100}, {64, 110}}});
  const CostModel steep(Calibration{{{1, 100}, {64, 6400}}});
  std::vector<std::int32_t> n;
  const std::vector<DraftCandidate> good{{8, 0.9}}, none{{0, 0.9}}, mixed{{8, 0.9}, {0, 0.9}};
  choose_drafts(good, {1}, 63, flat, 64, 1, n);
  EXPECT_EQ(n, std::vector<std::int32_t>{8});
  choose_drafts(good, {1}, 3, flat, 64, 1, n);
  EXPECT_EQ(n, std::vector<std::int32_t>{3});
  choose_drafts(good, {1}, 63, steep, 64, 1, n);
  EXPECT_EQ(n, std::vector<std::int32_t>{0});
  choose_drafts(none, {1}, 63, flat, 64, 1, n);
  EXPECT_EQ(n, std::vector<std::int32_t>{0});
  const CostModel free(Calibration{{{1, 100}, {64, 100}}});
  choose_drafts(mixed, {2}, 63, free, 64, 1, n);
  EXPECT_EQ(n, (std::vector<std::int32_t>{8, 0}));
  const CostModel half(Calibration{{{1, 100}, {2, 130}, {3, 160}, {4, 190}}});
  choose_drafts(mixed, {2}, 2, half, 64, 1, n);
  EXPECT_EQ(n, (std::vector<std::int32_t>{0, 0})) << "others do not wait for it";
  const std::vector<DraftCandidate> both{{8, 0.95}, {8, 0.95}};
  choose_drafts(both, {2}, 2, half, 64, 1, n);
  EXPECT_EQ(n, (std::vector<std::int32_t>{1, 1}));
  const std::vector<DraftCandidate> bad{{8, 0.03}};
  choose_drafts(bad, {1}, 63, flat, 64, 1, n);
  EXPECT_EQ(n, std::vector<std::int32_t>{0}) << "too little gained";
  choose_drafts(good, {1}, 63, flat, 1, 10, n);
  EXPECT_EQ(n, std::vector<std::int32_t>{0}) << "calls with guesses turned out dear";
}

TEST(Drafts, FollowHowTheyDid) {
  DraftRecord record;
  const double first = record.acceptance();
  record.observe(4, 4);
  EXPECT_GT(record.acceptance(), first);
  for (int i = 0; i < 100; ++i) record.observe(4, 0);
  EXPECT_LT(record.acceptance(), 0.01);
  const double low = record.acceptance();
  record.passed_over();
  EXPECT_GT(record.acceptance(), low);
  for (int i = 0; i < 10000; ++i) record.passed_over();
  EXPECT_LE(record.acceptance(), 0.5);
}

TEST(Drafts, CallsThatTakeLongerThanPredictedAreTriedAgainLater) {
  DraftPace pace;
  for (int i = 0; i < 100; ++i) pace.observe(2);
  EXPECT_NEAR(pace.factor(), 2, 0.01);
  pace.passed_over();
  EXPECT_LT(pace.factor(), 2);
  for (int i = 0; i < 100; ++i) pace.observe(0.5);
  EXPECT_EQ(pace.factor(), 1);
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

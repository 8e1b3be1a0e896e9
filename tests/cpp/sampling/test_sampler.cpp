#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "sampling/sampler.h"
#include "support.h"

namespace llamaherd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::uint64_t kSeed = 42;

std::optional<TokenId> sample_once(const Sampler& sampler, std::vector<float> row) {
  RowScratch scratch;
  return sampler.sample(row, scratch);
}

Sampler make_sampler(const SamplingParams& params, std::uint64_t seed = kSeed,
                     const std::vector<TokenId>& prompt = {}) {
  return Sampler(params, seed, make_table(), prompt, 1000);
}

/// The distinct tokens of many draws.
std::set<TokenId> drawn(const SamplingParams& params, const std::vector<float>& row,
                        const std::vector<TokenId>& prompt = {}) {
  std::set<TokenId> tokens;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    tokens.insert(*sample_once(make_sampler(params, seed, prompt), row));
  }
  return tokens;
}

TEST(Sampler, KeepsAsTabulated) {
  struct Row {
    const char* name;
    void (*set)(SamplingParams&);
    std::vector<float> logits;
    std::set<TokenId> expected;
  };
  using P = SamplingParams;
  const float log2 = std::log(2.0f);
  const std::vector<float> halves = {0, 2 * log2, log2, 2 * log2 - 30};  // 1/7, 4/7, 2/7, ~0
  const std::vector<Row> rows = {
      {"everything", [](P&) {}, halves, {0, 1, 2}},
      {"greedy", [](P& p) { p.temperature = 0; }, halves, {1}},
      {"greedy takes the lowest of equals", [](P& p) { p.temperature = 0; }, {1, 3, 3}, {1}},
      {"top_k 1", [](P& p) { p.top_k = 1; }, halves, {1}},
      {"top_k 2", [](P& p) { p.top_k = 2; }, halves, {1, 2}},
      {"top_k of equals keeps the lowest", [](P& p) { p.top_k = 2; }, {1, 1, 1, 1}, {0, 1}},
      {"top_k beyond the vocabulary", [](P& p) { p.top_k = 99; }, {1, 1, 1}, {0, 1, 2}},
      {"top_p within the first", [](P& p) { p.top_p = 0.5f; }, halves, {1}},
      {"top_p into the second", [](P& p) { p.top_p = 0.6f; }, halves, {1, 2}},
      {"top_p into the third", [](P& p) { p.top_p = 0.9f; }, halves, {0, 1, 2}},
      {"top_p tiny keeps one", [](P& p) { p.top_p = 1e-6f; }, halves, {1}},
      {"top_p of what top_k kept", [](P& p) { p.top_k = 2, p.top_p = 0.65f; }, halves, {1}},
      {"min_p", [](P& p) { p.min_p = 0.3f; }, halves, {1, 2}},
      {"min_p 1 keeps equals", [](P& p) { p.min_p = 1; }, {2, 0, 2}, {0, 2}},
      {"min_p looks at temperature 1",
       [](P& p) { p.min_p = 0.3f, p.temperature = 9; },
       halves,
       {1, 2}},
      {"typical_p keeps the nearest to the entropy",
       [](P& p) { p.typical_p = 0.2f; },
       {0, 2 * std::log(2.0f), std::log(2.0f)},
       {2}},
      {"low temperature is nearly greedy", [](P& p) { p.temperature = 0.01f; }, halves, {1}},
      {"the lowest temperature is greedy", [](P& p) { p.temperature = 1e-45f; }, halves, {1}},
      {"the lowest temperature, cut",
       [](P& p) { p.temperature = 1e-45f, p.top_k = 3; },
       halves,
       {1}},
      {"-inf is never drawn", [](P& p) { p.temperature = 100; }, {-kInf, 0, -kInf, 0}, {1, 3}},
      {"nor by top_k", [](P& p) { p.top_k = 3; }, {-kInf, 0, -kInf, 0}, {1, 3}},
      {"nor by typical_p", [](P& p) { p.typical_p = 0.999f; }, {-kInf, 0, -kInf, 0}, {1, 3}},
      {"nor by top_p", [](P& p) { p.top_p = 0.999f; }, {-kInf, 0, -kInf, 0}, {1, 3}},
  };
  for (const Row& row : rows) {
    SamplingParams params;
    row.set(params);
    EXPECT_EQ(drawn(params, row.logits), row.expected) << row.name;
  }
}

TEST(Sampler, TheNucleusMayReachDeep) {
  std::vector<float> row(2000, -9.0f);  // together a quarter of the best one's weight
  row[0] = 0;
  SamplingParams params;
  params.top_p = 0.95f;
  EXPECT_GT(drawn(params, row).size(), 20u);
}

TEST(Sampler, RowsThatAreNotFiniteGiveNothing) {
  for (float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    const Sampler sampler = make_sampler(params);
    EXPECT_EQ(sample_once(sampler, {0, kNan, 1}), std::nullopt);
    EXPECT_EQ(sample_once(sampler, {0, kInf, 1}), std::nullopt);
    EXPECT_EQ(sample_once(sampler, {-kInf, -kInf}), std::nullopt);
    EXPECT_EQ(sample_once(sampler, {-kInf, -5}), 1);
  }
}

TEST(Sampler, SamplingAgainGivesTheSameToken) {
  std::mt19937 rng(5);
  const std::vector<float> row(kVocab, 0.0f);
  Sampler sampler = make_sampler({});
  std::vector<TokenId> first, second;
  for (int i = 0; i < 50; ++i) {
    first.push_back(*sample_once(sampler, row));
    for (std::size_t n = rng() % 3; n > 0; --n) {
      EXPECT_EQ(sample_once(sampler, row), first.back());
    }
    sampler.accept(first.back());
  }
  Sampler other = make_sampler({});
  for (int i = 0; i < 50; ++i) {
    second.push_back(*sample_once(other, row));
    other.accept(second.back());
  }
  EXPECT_EQ(first, second);
  EXPECT_GT((std::set<TokenId>(first.begin(), first.end()).size()), 20u) << "indices differ";
}

TEST(Sampler, SeedsGiveDifferentTokens) {
  EXPECT_GT(drawn({}, std::vector<float>(kVocab, 0.0f)).size(), 60u);
}

TEST(Sampler, NoSeedIsAnotherOneShifted) {
  const std::vector<float> row(kVocab, 0.0f);
  Sampler a = make_sampler({}, 1), b = make_sampler({}, 1 + 0x9E3779B97F4A7C15u);
  a.accept(0);
  int n_equal = 0;
  for (int i = 0; i < 50; ++i) {
    n_equal += sample_once(a, row) == sample_once(b, row);
    a.accept(0);
    b.accept(0);
  }
  EXPECT_LT(n_equal, 10);
}

TEST(Sampler, ScratchCarriesNothingOver) {
  SamplingParams params;
  params.top_p = 0.9f;
  std::mt19937 rng(6);
  std::normal_distribution<float> normal(0, 3);
  RowScratch shared;
  for (int i = 0; i < 200; ++i) {
    std::vector<float> row(1 + rng() % 300);
    for (float& x : row) x = normal(rng);
    const Sampler sampler = make_sampler(params, rng());
    std::vector<float> copy = row;
    EXPECT_EQ(sampler.sample(copy, shared), sample_once(sampler, row));
  }
}

SamplingParams greedy_params() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  SamplingParams params = greedy_params();
  params.repetition_penalty = 2;
  const std::vector<TokenId> prompt = {1, 1, 2};
  EXPECT_EQ(sample_once(make_sampler(params, 0, prompt), {0, 4, 3, 2.1f}), 3) << "once each";
  EXPECT_EQ(sample_once(make_sampler(params, 0, prompt), {-9, -1, -9, -1.9f}), 3);
  EXPECT_EQ(sample_once(make_sampler(params, 0, prompt), {-9, -1, -9, -2.1f}), 1);
  Sampler sampler = make_sampler(params);
  EXPECT_EQ(sample_once(sampler, {0, 4, 0, 2.1f}), 1);
  sampler.accept(1);
  EXPECT_EQ(sample_once(sampler, {0, 4, 0, 2.1f}), 3);
}

TEST(Sampler, FrequencyAndPresencePenaltiesCountOutputOnly) {
  SamplingParams params = greedy_params();
  params.frequency_penalty = 1;
  Sampler frequency = make_sampler(params, 0, {1, 1, 1});
  EXPECT_EQ(sample_once(frequency, {0, 2.5f, 1}), 1);
  frequency.accept(1);
  EXPECT_EQ(sample_once(frequency, {0, 2.5f, 1}), 1) << "2.5 - 1";
  frequency.accept(1);
  EXPECT_EQ(sample_once(frequency, {0, 2.5f, 1}), 2) << "2.5 - 2";

  params = greedy_params();
  params.presence_penalty = 1;
  Sampler presence = make_sampler(params, 0, {1, 1, 1});
  presence.accept(1);
  presence.accept(1);
  EXPECT_EQ(sample_once(presence, {0, 2.5f, 1}), 1) << "2.5 - 1, however often";
  EXPECT_EQ(sample_once(presence, {0, 1.5f, 1}), 2);
  params.presence_penalty = -1;
  Sampler wanted = make_sampler(params);
  wanted.accept(2);
  EXPECT_EQ(sample_once(wanted, {0, 1.5f, 1}), 2);
}

TEST(Sampler, LogitBiasIsAdded) {
  SamplingParams params = greedy_params();
  params.logit_bias = {{1, -kInf}, {3, 2.0f}, {3, 0.5f}};
  EXPECT_EQ(sample_once(make_sampler(params), {0, 9, 2.4f, 0}), 3);
  EXPECT_EQ(sample_once(make_sampler(params), {0, 9, 2.6f, 0}), 2);
}

TEST(Sampler, MinTokensHoldsBackEndAndStopTokens) {
  SamplingParams params = greedy_params();
  params.min_tokens = 2;
  params.stop_token_ids = {2};
  Sampler sampler = make_sampler(params);
  const std::vector<float> row = {9, 1, 8};  // id 0 ends a generation
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(sample_once(sampler, row), 1);
    sampler.accept(1);
  }
  EXPECT_EQ(sample_once(sampler, row), kEos);
}

TEST(Sampler, IgnoreEosNeverDrawsIt) {
  SamplingParams params = greedy_params();
  params.ignore_eos = true;
  params.min_tokens = 1;
  params.stop_token_ids = {2};
  Sampler sampler = make_sampler(params);
  EXPECT_EQ(sample_once(sampler, {9, 1, 8}), 1);
  sampler.accept(1);
  EXPECT_EQ(sample_once(sampler, {9, 1, 8}), 2);
}

}  // namespace
}  // namespace llamaherd

#include "sampling/logprobs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "support.h"

namespace llamaherd {
namespace {

std::vector<double> reference(const std::vector<float>& logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  std::vector<double> logprobs;
  for (const float logit : logits) logprobs.push_back(logit - max - std::log(sum));
  return logprobs;
}

/// Token ids, likeliest first, equals by id.
std::vector<TokenId> ranking(const std::vector<float>& logits) {
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(ids, [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  return ids;
}

void expect_is(const TokenLogprob& found, const std::vector<float>& logits, std::int32_t n_top) {
  const std::vector<double> expected = reference(logits);
  const std::vector<TokenId> ranked = ranking(logits);
  EXPECT_NEAR(found.logprob, expected[found.token], 1e-5);
  EXPECT_EQ(ranked[found.rank - 1], found.token);
  ASSERT_EQ(found.top.size(), std::min<std::size_t>(n_top, logits.size()));
  for (std::size_t i = 0; i < found.top.size(); ++i) {
    EXPECT_EQ(found.top[i].first, ranked[i]);
    EXPECT_NEAR(found.top[i].second, expected[ranked[i]], 1e-5);
  }
}

TEST(Logprobs, AreTheWholeSoftmaxs) {
  std::mt19937 rng(1);
  RowScratch scratch;
  for (const int n_vocab : {1, 5, 64, 1000, 49152}) {
    for (const float spread : {0.0f, 1.0f, 10.0f}) {
      std::normal_distribution<float> normal(-3.0f, spread == 0 ? 1e-6f : spread);
      std::vector<float> logits(n_vocab);
      for (float& logit : logits) logit = normal(rng);
      if (n_vocab > 64) logits[7] = logits[70] = *std::ranges::max_element(logits);
      const TokenId token = static_cast<TokenId>(rng() % n_vocab);
      const std::int32_t n_top = static_cast<std::int32_t>(rng() % 51);
      const auto found = logprob_of(token, logits, n_top, scratch);
      ASSERT_TRUE(found);
      expect_is(*found, logits, n_top);
    }
  }
}

TEST(Logprobs, OfForbiddenTokensAreMinusInfinity) {
  RowScratch scratch;
  std::vector<float> logits = {1.0f, -std::numeric_limits<float>::infinity(), 1.0f};
  const auto forbidden = logprob_of(1, logits, 0, scratch);
  EXPECT_EQ(forbidden->logprob, -std::numeric_limits<float>::infinity());
  EXPECT_EQ(forbidden->rank, 3);
  const auto second = logprob_of(2, logits, 0, scratch);
  EXPECT_NEAR(second->logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(second->rank, 2);
}

TEST(Logprobs, KnowRowsThatAreNotFinite) {
  RowScratch scratch;
  std::vector<float> logits(100, 0.0f);
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    logits[99] = bad;
    EXPECT_FALSE(logprob_of(0, logits, 3, scratch));
  }
}

/// The fake's logits behind these tokens.
std::vector<float> logits_behind(std::span<const TokenId> tokens) {
  FakeOptions options = small_herd().fake;
  options.info.n_batch = 256;
  FakeBackend backend(options);
  std::vector<TokenId> ids(tokens.begin(), tokens.end());
  std::vector<Pos> positions(ids.size());
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<SeqId> seqs(ids.size(), 0);
  std::vector<std::uint8_t> wants(ids.size(), 0);
  wants.back() = 1;
  EXPECT_EQ(backend.decode({ids, positions, seqs, wants}), DecodeStatus::kOk);
  const auto row = backend.logits(static_cast<std::int32_t>(ids.size()) - 1);
  return {row.begin(), row.end()};
}

void expect_scores(const Outcome& outcome, const Spec& spec) {
  const SamplingParams& p = spec.params;
  std::vector<TokenId> tokens = spec.prompt;
  tokens.insert(tokens.end(), outcome.token_ids.begin(), outcome.token_ids.end());
  const auto behind = [&](std::size_t n) { return logits_behind(std::span(tokens).first(n)); };
  if (p.prompt_logprobs) {
    const std::size_t from = p.prompt_logprobs_from;
    ASSERT_EQ(outcome.prompt_logprobs.size(), spec.prompt.size() - std::min(from, tokens.size()));
    for (std::size_t i = from; i < spec.prompt.size(); ++i) {
      EXPECT_EQ(outcome.prompt_logprobs[i - from].token, tokens[i]);
      expect_is(outcome.prompt_logprobs[i - from], behind(i), *p.prompt_logprobs);
    }
  }
  if (p.logprobs) {
    ASSERT_EQ(outcome.logprobs.size(), outcome.token_ids.size());
    for (std::size_t i = 0; i < outcome.token_ids.size(); ++i) {
      EXPECT_EQ(outcome.logprobs[i].token, outcome.token_ids[i]);
      expect_is(outcome.logprobs[i], behind(spec.prompt.size() + i), *p.logprobs);
    }
  }
}

Spec scored(std::vector<TokenId> prompt, std::int32_t from) {
  Spec spec = greedy(std::move(prompt), 0);
  spec.params.prompt_logprobs = 2;
  spec.params.prompt_logprobs_from = from;
  return spec;
}

TEST(ScoredRequest, NeedsNoRowForItsLastToken) {
  std::mt19937 rng(2);
  Herd herd(small_herd());
  const Spec spec = scored(random_prompt(rng, 70), 1);
  const RequestId id = herd.submit(spec);
  herd.run();
  EXPECT_EQ(herd[id].reason, FinishReason::kLength);
  EXPECT_TRUE(herd[id].token_ids.empty());
  EXPECT_EQ(herd[id].text, "");
  expect_scores(herd[id], spec);
  const Metrics m = herd.engine.metrics();
  EXPECT_EQ(m.n_prefill_rows + m.n_decode_rows, 69);
  EXPECT_EQ(m.n_output_tokens, 0);
}

TEST(ScoredRequest, ComputesWhatIsBehindTheSharedPrefixOnly) {
  std::mt19937 rng(3);
  Herd herd(small_herd());
  const std::vector<TokenId> context = random_prompt(rng, 40);
  std::vector<Spec> specs;
  for (int i = 0; i < 4; ++i) {
    std::vector<TokenId> prompt = context;
    for (const TokenId token : random_prompt(rng, 3)) prompt.push_back(token);
    specs.push_back(scored(prompt, 40));
  }
  const std::vector<Outcome> outcomes = run_together(herd, specs);
  for (std::size_t i = 0; i < specs.size(); ++i) expect_scores(outcomes[i], specs[i]);
  const Metrics m = herd.engine.metrics();
  // The context once; of each the row behind the context, whose logits are wanted anew, and two.
  EXPECT_LE(m.n_prefill_rows + m.n_decode_rows, 40 + 4 * 3);
}

TEST(ScoredRequest, OfOneTokenBehindAKnownPromptComputesNothing) {
  std::mt19937 rng(4);
  Herd herd(small_herd());
  std::vector<Spec> specs;
  const std::vector<TokenId> context = random_prompt(rng, 20);
  for (TokenId last = 1; last <= 4; ++last) {
    std::vector<TokenId> prompt = context;
    prompt.push_back(last);
    specs.push_back(scored(prompt, 20));
  }
  const std::vector<Outcome> outcomes = run_together(herd, specs);
  for (std::size_t i = 0; i < specs.size(); ++i) expect_scores(outcomes[i], specs[i]);
  const Metrics m = herd.engine.metrics();
  EXPECT_EQ(m.n_prefill_rows + m.n_decode_rows, 20);
  EXPECT_EQ(m.n_prompt_logits_hits, 3);
}

TEST(ScoredRequest, LogprobsAreThoseBeforePenaltiesAndBiases) {
  Herd herd(small_herd());
  Spec spec = greedy({5, 6, 7}, 12);
  spec.params.logprobs = 3;
  spec.params.temperature = 1.5f;
  spec.params.repetition_penalty = 1.7f;
  spec.params.logit_bias = {{9, 30.0f}};
  spec.params.ignore_eos = true;
  const RequestId id = herd.submit(spec);
  herd.run();
  ASSERT_EQ(herd[id].token_ids.size(), 12u);
  expect_scores(herd[id], spec);
}

TEST(ScoredRequest, OffsetsCountCharacters) {
  Herd herd(small_herd());
  Spec spec = scored({1, 53, 54, 55, 2}, 1);  // "a", an e acute in two halves, " the", "b"
  spec.params.echo = true;
  const RequestId id = herd.submit(spec);
  herd.run();
  std::vector<std::int32_t> offsets;
  for (const TokenLogprob& t : herd[id].prompt_logprobs) offsets.push_back(t.text_offset);
  EXPECT_EQ(offsets, (std::vector<std::int32_t>{1, 2, 2, 6}));
  EXPECT_EQ(herd[id].text, "a\xC3\xA9 theb");
}

TEST(ScoredRequest, IsTheSameWhateverRunsBesideItAndHoweverItIsCut) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 rng(seed);
    HerdOptions options = small_herd();
    options.fake.info.max_scored_rows = 1 + static_cast<std::int32_t>(rng() % 8);
    options.fake.info.n_ctx = 100;
    options.plan = random_plan(options.fake.info, rng);
    if (seed % 2)
      options.fake.faults[rng() % 20] = {Fault::Kind::kStatus, DecodeStatus::kFailed, 1};
    Herd herd(options);
    std::vector<Spec> specs;
    const std::vector<TokenId> common = random_prompt(rng, 12);
    for (int i = 0; i < 10; ++i) {
      Spec spec = random_spec(rng, 30, 20);
      if (rng() % 2) spec.prompt.insert(spec.prompt.begin(), common.begin(), common.end());
      specs.push_back(spec);
    }
    const std::vector<Outcome> outcomes = run_together(herd, specs);
    for (std::size_t i = 0; i < specs.size(); ++i) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", request " + std::to_string(i));
      EXPECT_EQ(outcomes[i], run_alone(specs[i], small_herd()));
      if (outcomes[i].reason != FinishReason::kError) expect_scores(outcomes[i], specs[i]);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "support.h"

namespace llamaherd {
namespace {

/// Backends differ in whether prompts get calls of their own.
class EngineStep : public ::testing::TestWithParam<bool> {
 protected:
  EngineStep() : options_(small_herd()) {
    options_.plan.calibration = GetParam() ? split_calibration() : joint_calibration();
  }

  HerdOptions options_;
};

std::string split_name(const ::testing::TestParamInfo<bool>& info) {
  return info.param ? "SplitPrefill" : "OneCall";
}
INSTANTIATE_TEST_SUITE_P(All, EngineStep, ::testing::Bool(), split_name);

TEST_P(EngineStep, AnIdleEngineDoesNothing) {
  Herd herd(options_);
  herd.step();
  EXPECT_EQ(herd.backend.n_calls(), 0);
  EXPECT_EQ(herd.engine.metrics().n_steps, 0);
}

TEST_P(EngineStep, AnUnstreamedRequestGivesItsWholeOutputInItsLastDelta) {
  std::mt19937 rng(23);
  for (int i = 0; i < 30; ++i) {
    const Spec spec = random_spec(rng, 20, 20);
    Herd streamed(options_);
    const RequestId id = streamed.submit(spec);
    streamed.run();
    Herd quiet(options_);
    quiet.engine.submit(1, spec.prompt, spec.params, spec.seed, 0, {.streamed = false});
    std::vector<Delta> deltas;
    while (!quiet.engine.idle()) quiet.engine.step(deltas);
    ASSERT_EQ(deltas.size(), 1u);
    const Delta& all = deltas[0];
    EXPECT_EQ((Outcome{{all.token_ids.begin(), all.token_ids.end()},
                       all.text,
                       all.finish_reason,
                       "",
                       all.logprobs,
                       all.prompt_logprobs}),
              streamed[id]);
  }
}

TEST_P(EngineStep, ACancelledUnstreamedRequestKeepsWhatItGained) {
  Herd herd(options_);
  Spec spec = greedy({5, 6, 7}, 40);
  spec.params.ignore_eos = true;
  herd.engine.submit(1, spec.prompt, spec.params, spec.seed, 0, {.streamed = false});
  std::vector<Delta> deltas;
  for (int i = 0; i < 6; ++i) herd.engine.step(deltas);
  EXPECT_TRUE(deltas.empty());
  herd.engine.cancel(1, deltas);
  ASSERT_EQ(deltas.size(), 1u);
  EXPECT_EQ(deltas[0].finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(deltas[0].n_completion, 6);
  EXPECT_EQ(deltas[0].token_ids.size(), 6u);
}

TEST_P(EngineStep, ARequestFollowsTheModelAndItsSampler) {
  for (float temperature : {0.0f, 2.0f}) {
    Spec spec = greedy({5, 6, 7}, 20);
    spec.seed = 18;
    spec.params.temperature = temperature;
    spec.params.repetition_penalty = 1.2f;
    spec.params.ignore_eos = true;
    Herd herd(options_);
    const RequestId id = herd.submit(spec);
    herd.run();
    ASSERT_EQ(herd[id].token_ids.size(), 20u);

    Sampler sampler(spec.params, spec.seed, herd.table, spec.prompt, 20);
    RowScratch scratch;
    FakeBackend model(options_.fake);
    std::vector<TokenId> tokens = spec.prompt;
    for (TokenId expected : herd[id].token_ids) {
      model.clear();
      std::vector<Pos> positions(tokens.size());
      std::iota(positions.begin(), positions.end(), 0);
      const std::vector<SeqId> seqs(tokens.size(), 0);
      std::vector<std::uint8_t> wants_logits(tokens.size(), 0);
      wants_logits.back() = 1;
      ASSERT_EQ(model.decode({tokens, positions, seqs, wants_logits}), DecodeStatus::kOk);
      const auto row = model.logits(static_cast<std::int32_t>(tokens.size()) - 1);
      ASSERT_EQ(sampler.sample(row, scratch), expected);
      sampler.accept(expected);
      tokens.push_back(expected);
    }
  }
}

TEST_P(EngineStep, BatchedEqualsAlone) {
  std::mt19937 rng(8);
  for (int round = 0; round < 60; ++round) {
    std::vector<Spec> specs;
    for (int i = 0; i < 10; ++i) specs.push_back(random_spec(rng, 50, 30));
    Herd herd(options_);
    const auto together = run_together(herd, specs);
    for (std::size_t i = 0; i < specs.size(); ++i) {
      ASSERT_EQ(together[i], run_alone(specs[i])) << "round " << round << " request " << i;
    }
  }
}

TEST_P(EngineStep, StaggeredArrivalsEqualAlone) {
  std::mt19937 rng(9);
  for (int round = 0; round < 40; ++round) {
    std::vector<Spec> specs;
    std::vector<RequestId> ids;
    Herd herd(options_);
    for (int i = 0; i < 12; ++i) {
      specs.push_back(random_spec(rng, 50, 30));
      ids.push_back(herd.submit(specs.back()));
      for (std::size_t n = rng() % 8; n > 0; --n) herd.step();
    }
    herd.run();
    for (std::size_t i = 0; i < specs.size(); ++i) {
      ASSERT_EQ(herd[ids[i]], run_alone(specs[i])) << "round " << round << " request " << i;
    }
  }
}

TEST_P(EngineStep, TheOrderOfSubmissionDoesNotMatter) {
  std::mt19937 rng(10);
  std::vector<Spec> specs;
  for (int i = 0; i < 8; ++i) specs.push_back(random_spec(rng, 50, 30));
  std::vector<std::size_t> order = {0, 1, 2, 3, 4, 5, 6, 7};
  Herd first(options_);
  const auto expected = run_together(first, specs);
  for (int round = 0; round < 20; ++round) {
    std::shuffle(order.begin(), order.end(), rng);
    Herd herd(options_);
    std::vector<RequestId> ids(specs.size());
    for (std::size_t i : order) ids[i] = herd.submit(specs[i]);
    herd.run();
    for (std::size_t i = 0; i < specs.size(); ++i) ASSERT_EQ(herd[ids[i]], expected[i]);
  }
}

TEST_P(EngineStep, ChunkSizesDoNotMatter) {
  std::mt19937 rng(11);
  options_.fake.info.n_batch = 256;
  options_.fake.info.n_ctx = 1024;
  options_.limits.max_len = 256;
  std::vector<Spec> specs;
  for (int i = 0; i < 6; ++i) specs.push_back(random_spec(rng, 220, 20));
  Herd whole(options_);
  const auto expected = run_together(whole, specs);
  for (std::int32_t n_rows : {1, 2, 7, 64, 100, 200}) {
    options_.plan.packing.max_prefill_rows = n_rows;
    options_.plan.packing.max_call_rows = 256;
    Herd herd(options_);
    EXPECT_EQ(run_together(herd, specs), expected) << n_rows << " rows";
  }
}

TEST_P(EngineStep, RequestsEndByStopTokenStopStringAndLength) {
  const Outcome plain = run_alone(greedy({5, 6, 7}, 20), options_);
  ASSERT_EQ(plain.reason, FinishReason::kLength);
  ASSERT_EQ(plain.token_ids.size(), 20u);

  Spec by_token = greedy({5, 6, 7}, 20);
  by_token.params.stop_token_ids = {plain.token_ids[9]};
  Spec by_text = greedy({5, 6, 7}, 20);
  by_text.params.stop = {plain.text.substr(4, 3)};
  Spec up_to_max_len = greedy({5, 6, 7}, 500);
  up_to_max_len.params.ignore_eos = true;
  Herd herd(options_);
  const auto ended = run_together(herd, {by_token, by_text, up_to_max_len});
  EXPECT_EQ(ended[0].reason, FinishReason::kStop);
  EXPECT_EQ(ended[0].token_ids.back(), plain.token_ids[9]);
  EXPECT_LE(ended[0].token_ids.size(), 10u);
  EXPECT_EQ(ended[1].reason, FinishReason::kStop);
  EXPECT_EQ(ended[1].text, plain.text.substr(0, plain.text.find(by_text.params.stop.texts()[0])));
  EXPECT_EQ(ended[2].reason, FinishReason::kLength);
  EXPECT_EQ(ended[2].token_ids.size(), static_cast<std::size_t>(options_.limits.max_len - 3));
  EXPECT_EQ(herd.engine.metrics().n_finished_stop, 2);
  EXPECT_EQ(herd.engine.metrics().n_finished_length, 1);
}

TEST_P(EngineStep, TextIsTheTextOfTheTokens) {
  std::mt19937 rng(12);
  for (int i = 0; i < 200; ++i) {
    Spec spec = random_spec(rng, 10, 40);
    spec.params.stop = {};
    const Outcome o = run_alone(spec, options_);
    std::vector<TokenId> shown = o.token_ids;
    if (o.reason == FinishReason::kStop) shown.pop_back();
    const Vocabulary table = make_table();
    const std::string prompt = spec.params.echo ? text_of(spec.prompt, table) : "";
    EXPECT_EQ(o.text, prompt + text_of(shown, table));
  }
}

TEST_P(EngineStep, CancellingFreesCellsAtOnce) {
  Herd herd(options_);
  const RequestId a = herd.submit(greedy({5, 6, 7}, 20));
  const RequestId b = herd.submit(greedy({8, 9}, 20));
  for (int i = 0; i < 4; ++i) herd.step();
  const std::int32_t n_used = herd.backend.n_cells_used();
  const std::int32_t n_held = herd.backend.length(0);
  ASSERT_GT(n_held, 0);
  herd.cancel(a);
  EXPECT_EQ(herd.backend.n_cells_used(), n_used);
  EXPECT_EQ(herd.engine.metrics().cache.n_cells_reclaimable, n_held);
  EXPECT_EQ(herd[a].reason, FinishReason::kCancelled);
  EXPECT_EQ(herd.engine.metrics().n_cells_reserved, 21);
  herd.run();
  EXPECT_EQ(herd[b], run_alone(greedy({8, 9}, 20)));
}

TEST_P(EngineStep, CancellingAWaitingUnknownOrEndedRequestIsHarmless) {
  options_.fake.info.n_seqs = 1;
  Herd herd(options_);
  const RequestId a = herd.submit(greedy({5, 6, 7}, 5));
  const RequestId b = herd.submit(greedy({8, 9}, 5));
  herd.step();
  herd.cancel(b);
  EXPECT_EQ(herd[b].reason, FinishReason::kCancelled);
  herd.cancel(b);
  herd.cancel(999);
  herd.run();
  herd.cancel(a);
  EXPECT_EQ(herd[a], run_alone(greedy({5, 6, 7}, 5)));
  EXPECT_EQ(herd.engine.metrics().n_finished_cancelled, 1);
}

TEST_P(EngineStep, AThousandSubmitsAndCancelsLeaveNothingBehind) {
  std::mt19937 rng(13);
  Herd herd(options_);
  std::vector<RequestId> open;
  for (int i = 0; i < 1000; ++i) {
    open.push_back(herd.submit(random_spec(rng, 40, 40)));
    if (rng() % 2) herd.step();
    const std::size_t k = rng() % open.size();
    herd.cancel(open[k]);
    open.erase(open.begin() + static_cast<std::ptrdiff_t>(k));
  }
  EXPECT_TRUE(herd.engine.idle());
  herd.run();
  EXPECT_EQ(herd.engine.metrics().n_submitted, 1000);
}

TEST_P(EngineStep, FinishAllEndsWaitingAndRunning) {
  Herd herd(options_);
  for (int i = 0; i < 9; ++i) herd.submit(greedy({5, 6, 7}, 20));
  herd.step();
  std::vector<Delta> deltas;
  herd.engine.finish_all(FinishReason::kError, "the end", deltas);
  herd.collector.take(deltas);
  herd.run();
  for (const auto& [id, outcome] : herd.collector.all()) {
    EXPECT_EQ(outcome.reason, FinishReason::kError);
    EXPECT_EQ(outcome.error, "the end");
  }
}

TEST_P(EngineStep, WorkIsDoneOnce) {
  Herd herd(options_);
  const std::vector<Spec> specs = {greedy({5, 6, 7}, 4), greedy({8, 9}, 7), greedy({4}, 5)};
  const auto outcomes = run_together(herd, specs);
  std::int64_t n_rows = 0, n_tokens = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    n_tokens += static_cast<std::int64_t>(outcomes[i].token_ids.size());
    n_rows += static_cast<std::int64_t>(specs[i].prompt.size() + outcomes[i].token_ids.size()) - 1;
  }
  const Metrics m = herd.engine.metrics();
  EXPECT_EQ(m.n_decode_rows + m.n_prefill_rows, n_rows);
  EXPECT_EQ(m.n_output_tokens, n_tokens);
  EXPECT_EQ(m.n_decode_calls + m.n_prefill_calls, herd.backend.n_calls());
}

TEST_P(EngineStep, LatecomersDoNotStopTheTokens) {
  Herd herd(options_);
  Spec first = greedy({5, 6, 7}, 60);
  first.params.ignore_eos = true;
  const RequestId id = herd.submit(first);
  herd.step();
  std::mt19937 rng(14);
  herd.submit(greedy(random_prompt(rng, 90), 4));
  for (std::size_t n = 2; n < 30; ++n) {
    herd.step();
    EXPECT_EQ(herd[id].token_ids.size(), n);
  }
}

}  // namespace
}  // namespace llamaherd

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "fake_backend.h"

namespace llamaherd {

inline constexpr std::int32_t kVocab = 64;
inline constexpr TokenId kEos = 0;
inline constexpr TokenId kPoison = kVocab - 1;
inline constexpr TokenId kCursed = kVocab - 2;

/// Letters, digits, two halves of an e acute, and an end of generation.
inline Vocabulary make_table() {
  Vocabulary table;
  table.add("</s>", true);
  for (char c = 'a'; c <= 'z'; ++c) table.add(std::string(1, c), false);
  for (char c = 'A'; c <= 'Z'; ++c) table.add(std::string(1, c), false);
  table.add("\xC3", false);
  table.add("\xA9", false);
  for (const char* piece : {" the", "ing", "\n", "0", "1", "2", ".", "?", "#"}) {
    table.add(piece, false);
  }
  return table;
}

inline std::string text_of(const std::vector<TokenId>& tokens, const Vocabulary& table) {
  std::string bytes, text;
  for (TokenId token : tokens) bytes += table.piece(token);
  append_utf8(bytes, true, text);
  return text;
}

struct Spec {
  std::vector<TokenId> prompt;
  SamplingParams params;
  std::uint64_t seed = 0;

  /// Prompt tokens that are run: with max_tokens 0 all but the last.
  std::size_t n_run() const { return prompt.size() - (params.max_tokens == 0); }
};

inline Spec greedy(std::vector<TokenId> prompt, std::int32_t max_tokens) {
  Spec spec;
  spec.prompt = std::move(prompt);
  spec.params.temperature = 0;
  spec.params.max_tokens = max_tokens;
  return spec;
}

inline std::vector<TokenId> random_prompt(std::mt19937& rng, std::int32_t n) {
  std::vector<TokenId> prompt(n);
  for (TokenId& token : prompt) token = 1 + static_cast<TokenId>(rng() % (kVocab - 3));
  return prompt;
}

/// Of the prompt's tail, instead of an output or beside one.
inline void ask_for_scores(Spec& spec, std::mt19937& rng) {
  SamplingParams& p = spec.params;
  const auto n_prompt = static_cast<std::uint32_t>(spec.prompt.size());
  p.prompt_logprobs = static_cast<std::int32_t>(rng() % 4);
  p.prompt_logprobs_from = 1 + static_cast<std::int32_t>(rng() % std::max(1u, n_prompt - 1));
  if (n_prompt == 1 || rng() % 2) return;
  p.max_tokens = 0;
  p.min_tokens = 0;
}

/// Greedy and sampled, with and without penalties, stop strings and min_tokens.
inline Spec random_spec(std::mt19937& rng, std::int32_t max_prompt, std::int32_t max_tokens) {
  Spec spec = greedy(random_prompt(rng, 1 + static_cast<std::int32_t>(rng() % max_prompt)),
                     1 + static_cast<std::int32_t>(rng() % max_tokens));
  SamplingParams& p = spec.params;
  spec.seed = rng();
  if (rng() % 2) p.temperature = 1.5f;
  if (rng() % 3 == 0) p.top_k = 5;
  if (rng() % 3 == 0) p.top_p = 0.8f;
  if (rng() % 3 == 0) p.repetition_penalty = 1.3f;
  if (rng() % 4 == 0) p.stop = {"a", "the", "\xC3\xA9"};
  if (rng() % 4 == 0) p.min_tokens = std::min(*p.max_tokens, 3);
  p.ignore_eos = rng() % 4 == 0;
  p.echo = rng() % 8 == 0;
  if (rng() % 4 == 0) p.logprobs = static_cast<std::int32_t>(rng() % 4);
  if (rng() % 4 == 0) ask_for_scores(spec, rng);
  return spec;
}

struct Outcome {
  std::vector<TokenId> token_ids;
  std::string text;
  std::optional<FinishReason> reason;
  std::string error;
  std::vector<TokenLogprob> logprobs = {}, prompt_logprobs = {};

  bool operator==(const Outcome& o) const {
    return token_ids == o.token_ids && text == o.text && reason == o.reason &&
           logprobs == o.logprobs && prompt_logprobs == o.prompt_logprobs;
  }
};

inline std::ostream& operator<<(std::ostream& os, const Outcome& o) {
  return os << "[" << ::testing::PrintToString(o.token_ids) << " '" << o.text << "' reason "
            << (o.reason ? static_cast<int>(*o.reason) : -1) << " " << o.error << "]";
}

struct HerdOptions {
  FakeOptions fake;
  PlanOptions plan;
  Limits limits;
  CacheOptions cache;
};

/// By which prefill rows are best put into decode's call, and a call carries all rows.
inline Calibration joint_calibration() { return {{{1, 10e6}, {kChunkRows, 64e6}}}; }

/// By which it makes no difference, so that prefill rows get a call of their own.
inline Calibration split_calibration() { return {{{1, 1e6}, {kChunkRows, 64e6}}}; }

/// Any step budget, and a curve by which rows are joined, split and filled up at random.
inline PlanOptions random_plan(const BackendInfo& info, std::mt19937& rng) {
  PlanOptions plan;
  plan.learns = false;
  plan.packing.max_prefill_rows = 1 + static_cast<std::int32_t>(rng() % info.n_batch);
  plan.packing.max_call_rows = info.n_batch;
  plan.packing.may_pad = rng() % 2;
  plan.packing.target_itl_ns = rng() % 2 ? 0 : static_cast<double>(rng() % 50);
  Calibration& calibration = plan.calibration.emplace();
  for (std::int32_t n = 1; n <= 40; ++n) {
    calibration.points.push_back({n, 1 + static_cast<double>(rng() % 20)});
  }
  return plan;
}

inline HerdOptions small_herd() {
  HerdOptions s;
  s.fake.info.n_vocab = kVocab;
  s.fake.info.n_ctx = 256;
  s.fake.info.n_ctx_train = 256;
  s.fake.info.n_seqs = 4;
  s.fake.info.n_batch = 32;
  s.fake.info.max_scored_rows = 6;
  s.fake.info.n_holders = 12;
  s.plan.packing.max_prefill_rows = 16;
  s.plan.packing.max_call_rows = 32;
  s.plan.learns = false;
  s.limits = {kVocab, 96};
  return s;
}

/// Checks the rules that hold for deltas of whatever requests, and joins them per request.
class Collector {
 public:
  void expect(RequestId id) { outcomes_[id]; }

  void take(const std::vector<Delta>& deltas) {
    for (const Delta& delta : deltas) {
      const auto it = outcomes_.find(delta.request_id);
      ASSERT_NE(it, outcomes_.end()) << "delta of an unknown request " << delta.request_id;
      Outcome& o = it->second;
      EXPECT_FALSE(o.reason) << "delta behind the last one of request " << delta.request_id;
      o.token_ids.insert(o.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
      o.text += delta.text;
      o.logprobs.insert(o.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
      o.prompt_logprobs.insert(o.prompt_logprobs.end(), delta.prompt_logprobs.begin(),
                               delta.prompt_logprobs.end());
      o.reason = delta.finish_reason;
      o.error = delta.error;
      EXPECT_EQ(delta.n_completion, static_cast<std::int32_t>(o.token_ids.size()));
      EXPECT_EQ(o.error.empty(), o.reason != FinishReason::kError);
      n_finished_ += delta.finish_reason.has_value();
    }
  }

  const Outcome& operator[](RequestId id) const { return outcomes_.at(id); }
  const std::map<RequestId, Outcome>& all() const { return outcomes_; }
  bool complete() const { return n_finished_ == outcomes_.size(); }

 private:
  std::map<RequestId, Outcome> outcomes_;
  std::size_t n_finished_ = 0;
};

/// An engine on the fake, whose rules are checked after each step.
class Herd {
 public:
  explicit Herd(const HerdOptions& options)
      : backend(options.fake),
        table(make_table()),
        engine(backend, table, options.limits, options.plan, options.cache, clock) {
    backend.use_clock(clock);
  }

  RequestId submit(const Spec& spec, const SubmitOptions& options = {}) {
    const RequestId id = next_id_++;
    collector.expect(id);
    engine.submit(id, spec.prompt, spec.params, spec.seed, clock.now_ns(), options);
    return id;
  }

  void cancel(RequestId id) {
    std::vector<Delta> deltas;
    engine.cancel(id, deltas);
    collector.take(deltas);
    check();
  }

  void step() {
    std::vector<Delta> deltas;
    engine.step(deltas);
    collector.take(deltas);
    ++n_steps;
    check();
  }

  void run() {
    constexpr int kMaxSteps = 20000;
    for (int i = 0; !engine.idle(); ++i) {
      ASSERT_LT(i, kMaxSteps) << "the engine makes no progress";
      step();
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_TRUE(collector.complete());
    EXPECT_EQ(engine.metrics().n_cells_reserved, 0);
    EXPECT_EQ(backend.n_refused(), 0);
  }

  const Outcome& operator[](RequestId id) const { return collector[id]; }

  ManualClock clock;
  FakeBackend backend;
  Vocabulary table;
  Engine engine;
  Collector collector;
  std::int64_t n_steps = 0;

 private:
  void check() {
    EXPECT_EQ(violations(engine.snapshot()), std::vector<std::string>{});
    EXPECT_EQ(backend.n_cells_used(), engine.metrics().n_cells_used);
  }

  RequestId next_id_ = 1;
};

/// What the request yields with the engine to itself and nothing going wrong.
inline Outcome run_alone(const Spec& spec, HerdOptions options = small_herd()) {
  options.fake.faults.clear();
  options.cache = {};
  options.cache.enabled = false;
  options.plan.prompt_lookup = false;
  Herd herd(options);
  const RequestId id = herd.submit(spec);
  herd.run();
  return herd[id];
}

inline std::vector<Outcome> run_together(Herd& herd, const std::vector<Spec>& specs) {
  std::vector<RequestId> ids;
  for (const Spec& spec : specs) ids.push_back(herd.submit(spec));
  herd.run();
  std::vector<Outcome> outcomes;
  for (RequestId id : ids) outcomes.push_back(herd[id]);
  return outcomes;
}

}  // namespace llamaherd

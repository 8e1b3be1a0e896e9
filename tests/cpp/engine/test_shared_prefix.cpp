#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "support.h"

namespace llamaherd {
namespace {

constexpr std::int32_t kPrefix = 640;
constexpr std::int32_t kTail = 30;
constexpr std::int32_t kOutput = 8;

/// Whether prompts get calls of their own; whether the memory can be trimmed.
class SharedPrefix : public ::testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  SharedPrefix() : options_(small_herd()) {
    options_.plan.calibration = std::get<0>(GetParam()) ? split_calibration() : joint_calibration();
    options_.fake.info.partial_removal = std::get<1>(GetParam());
    options_.fake.info.n_ctx = options_.fake.info.n_ctx_train = 8192;
    options_.fake.info.n_seqs = 8;
    options_.fake.info.n_holders = 64;
    options_.fake.info.n_batch = 256;
    options_.plan.packing.max_prefill_rows = 128;
    options_.plan.packing.max_call_rows = 256;
    options_.limits = {kVocab, 1024};
  }

  std::vector<Spec> specs_with_one_prefix(int n) {
    const auto prefix = random_prompt(rng_, kPrefix);
    std::vector<Spec> specs;
    for (TokenId i = 0; i < n; ++i) {
      auto prompt = prefix;
      prompt.push_back(1 + i);  // they part here
      const auto tail = random_prompt(rng_, kTail - 1);
      prompt.insert(prompt.end(), tail.begin(), tail.end());
      specs.push_back(greedy(prompt, kOutput));
      specs.back().params.ignore_eos = true;
    }
    return specs;
  }

  static std::int64_t n_rows(const Herd& herd) {
    const Metrics m = herd.engine.metrics();
    return m.n_prefill_rows + m.n_decode_rows;
  }

  /// Submits all and ends the first of them after some steps.
  void run_without_first(Herd& herd, const std::vector<Spec>& specs, int n_steps) {
    std::vector<RequestId> ids;
    for (const Spec& spec : specs) ids.push_back(herd.submit(spec));
    for (int i = 0; i < n_steps; ++i) herd.step();
    herd.cancel(ids[0]);
    herd.run();
    for (std::size_t i = 1; i < ids.size(); ++i) {
      EXPECT_EQ(herd[ids[i]], run_alone(specs[i], options_));
    }
  }

  /// One whose prompt fails behind the prefix.
  void run_with_bad_leader(TokenId bad, DecodeStatus curse) {
    options_.fake.curse = curse;
    auto specs = specs_with_one_prefix(8);
    specs[0].prompt[kPrefix + 3] = bad;
    Herd herd(options_);
    const auto outcomes = run_together(herd, specs);
    EXPECT_EQ(outcomes[0].reason, FinishReason::kError);
    for (std::size_t i = 1; i < specs.size(); ++i) {
      EXPECT_EQ(outcomes[i], run_alone(specs[i], options_));
    }
    EXPECT_LE(n_rows(herd), 6 * (kPrefix + 8 * (kTail + kOutput)));
  }

  /// The n_cached of each request's last delta.
  std::map<RequestId, std::int32_t> run_for_cached(Herd& herd) {
    std::map<RequestId, std::int32_t> n_cached;
    while (!herd.engine.idle()) {
      std::vector<Delta> deltas;
      herd.engine.step(deltas);
      herd.collector.take(deltas);
      for (const Delta& delta : deltas) n_cached[delta.request_id] = delta.n_cached;
    }
    return n_cached;
  }

  HerdOptions options_;
  std::mt19937 rng_{31};
};

std::string mode_name(const ::testing::TestParamInfo<std::tuple<bool, bool>>& info) {
  return std::string(std::get<0>(info.param) ? "SplitPrefill" : "OneCall") +
         (std::get<1>(info.param) ? "" : "Untrimmable");
}
INSTANTIATE_TEST_SUITE_P(All, SharedPrefix,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool()), mode_name);

TEST_P(SharedPrefix, AColdHerdComputesItOnce) {
  const auto specs = specs_with_one_prefix(8);
  Herd herd(options_);
  const auto outcomes = run_together(herd, specs);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(outcomes[i], run_alone(specs[i], options_));
  }
  const double n_needed = kPrefix + 8 * kTail;
  EXPECT_LE(n_rows(herd) - 8 * (kOutput - 1), 1.01 * n_needed);
  const CacheMetrics m = herd.engine.metrics().cache;
  EXPECT_EQ(m.n_followers, 7);
  EXPECT_EQ(m.n_from_in_flight, 7 * kPrefix);
  EXPECT_EQ(m.n_looked_up, 8 * (kPrefix + kTail));
}

TEST_P(SharedPrefix, ACancelledLeadersWorkIsGoneOnWith) {
  const auto specs = specs_with_one_prefix(8);
  for (const int n_steps : {1, 3, 4}) {
    Herd herd(options_);
    run_without_first(herd, specs, n_steps);
    EXPECT_LE(n_rows(herd) - 7 * (kOutput - 1), 1.01 * (kPrefix + 8 * kTail)) << n_steps;
  }
}

TEST_P(SharedPrefix, ALeaderThatDidNothingIsReplaced) {
  const auto specs = specs_with_one_prefix(8);
  Herd unstarted(options_);
  run_without_first(unstarted, specs, 0);
  EXPECT_LE(n_rows(unstarted) - 7 * (kOutput - 1), 1.01 * (kPrefix + 7 * kTail));
  options_.fake.faults[0] = {Fault::Kind::kStatus, DecodeStatus::kAborted, 0};
  Herd aborted(options_);
  run_without_first(aborted, specs, 1);
  EXPECT_LE(n_rows(aborted) - 128 - 7 * (kOutput - 1), 1.01 * (kPrefix + 7 * kTail));
}

TEST_P(SharedPrefix, AFailingLeaderTakesNobodyWithIt) {
  run_with_bad_leader(kCursed, DecodeStatus::kFailed);
}

TEST_P(SharedPrefix, ALeaderRefusedAsInvalidTakesNobodyWithIt) {
  run_with_bad_leader(kCursed, DecodeStatus::kInvalidBatch);
}

TEST_P(SharedPrefix, APoisonedLeaderTakesNobodyWithIt) {
  run_with_bad_leader(kPoison, DecodeStatus::kFailed);
}

TEST_P(SharedPrefix, OfIdenticalPromptsOneIsComputed) {
  auto specs = std::vector<Spec>(8, specs_with_one_prefix(1)[0]);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    specs[i].params.temperature = 2;
    specs[i].seed = i;
  }
  Herd herd(options_);
  const auto outcomes = run_together(herd, specs);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(outcomes[i], run_alone(specs[i], options_));
  }
  EXPECT_NE(outcomes[0], outcomes[1]);
  EXPECT_EQ(herd.engine.metrics().n_prompt_logits_hits, 7);
  EXPECT_EQ(n_rows(herd), kPrefix + kTail + 8 * (kOutput - 1));
}

TEST_P(SharedPrefix, AKnownStartMayEndAtItsFirstToken) {
  Spec spec = specs_with_one_prefix(1)[0];
  spec.params.max_tokens = 1;
  Herd herd(options_);
  const auto outcomes = run_together(herd, {spec, spec, spec});
  for (const Outcome& o : outcomes) EXPECT_EQ(o, run_alone(spec, options_));
  EXPECT_EQ(herd.engine.metrics().n_prompt_logits_hits, 2);
  EXPECT_EQ(n_rows(herd), kPrefix + kTail);
}

TEST_P(SharedPrefix, WithoutASpaceNothingIsSharedOrLeft) {
  const auto specs = specs_with_one_prefix(2);
  Herd herd(options_);
  std::vector<RequestId> ids;
  for (const Spec& spec : {specs[0], specs[1], specs[0]}) {
    ids.push_back(herd.submit(spec, {.cache_space = std::nullopt}));
  }
  herd.run();
  EXPECT_EQ(n_rows(herd), 3 * (kPrefix + kTail + kOutput - 1));
  EXPECT_EQ(herd.backend.n_cells_used(), 0);
  EXPECT_EQ(herd.engine.metrics().cache.n_looked_up, 0);
  EXPECT_EQ(herd[ids[2]], run_alone(specs[0], options_));
}

TEST_P(SharedPrefix, ADisabledCacheSharesNothing) {
  options_.cache.enabled = false;
  const Spec spec = specs_with_one_prefix(1)[0];
  Herd herd(options_);
  run_together(herd, {spec, spec});
  EXPECT_EQ(n_rows(herd), 2 * (kPrefix + kTail + kOutput - 1));
  EXPECT_EQ(herd.backend.n_cells_used(), 0);
}

TEST_P(SharedPrefix, SpacesShareNothing) {
  const Spec spec = specs_with_one_prefix(1)[0];
  Herd herd(options_);
  for (const CacheNamespace space : {1, 2, 2}) herd.submit(spec, {.cache_space = space});
  herd.run();
  EXPECT_EQ(herd.engine.metrics().n_prompt_logits_hits, 1);
  EXPECT_EQ(n_rows(herd), 2 * (kPrefix + kTail) + 3 * (kOutput - 1));
}

TEST_P(SharedPrefix, AFollowerKeepsItsPlace) {
  for (const std::int32_t n_seqs : {2, 3}) {
    options_.fake.info.n_seqs = n_seqs;
    auto specs = specs_with_one_prefix(2);
    specs.push_back(greedy(random_prompt(rng_, 200), kOutput));
    Herd herd(options_);
    std::vector<RequestId> ids;
    for (const Spec& spec : specs) ids.push_back(herd.submit(spec));
    herd.step();
    EXPECT_EQ(herd.engine.metrics().n_running, n_seqs - 1) << "a seat is kept for the second";
    herd.run();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(herd[ids[i]], run_alone(specs[i], options_));
    }
  }
}

TEST_P(SharedPrefix, DeltasSayWhatWasCached) {
  const auto specs = specs_with_one_prefix(3);
  Herd herd(options_);
  const RequestId a = herd.submit(specs[0]), b = herd.submit(specs[1]), c = herd.submit(specs[0]);
  auto n_cached = run_for_cached(herd);
  EXPECT_EQ(n_cached[a], 0);
  EXPECT_EQ(n_cached[b], kPrefix);
  EXPECT_EQ(n_cached[c], kPrefix + kTail);
  const RequestId later = herd.submit(specs[2]), again = herd.submit(specs[1]);
  const RequestId apart = herd.submit(specs[1], {.cache_space = 9});
  n_cached = run_for_cached(herd);
  EXPECT_EQ(n_cached[later], kPrefix);
  EXPECT_EQ(n_cached[again], kPrefix + kTail);
  EXPECT_EQ(n_cached[apart], 0);
}

TEST_P(SharedPrefix, AConversationIsGoneOnWith) {
  Herd herd(options_);
  Spec turn = specs_with_one_prefix(1)[0];
  for (int i = 0; i < 5; ++i) {
    const RequestId id = herd.submit(turn);
    const std::int64_t n_before = n_rows(herd);
    const auto n_prompt = static_cast<std::int32_t>(turn.prompt.size());
    const std::int32_t n_cached = run_for_cached(herd)[id];
    EXPECT_EQ(herd[id], run_alone(turn, options_));
    if (i > 0) {
      EXPECT_EQ(n_prompt - n_cached, 11) << "the last token of the answer was never run";
      EXPECT_EQ(n_rows(herd) - n_before, 11 + kOutput - 1);
    }
    const Outcome& answer = herd[id];
    turn.prompt.insert(turn.prompt.end(), answer.token_ids.begin(), answer.token_ids.end());
    const auto more = random_prompt(rng_, 10);
    turn.prompt.insert(turn.prompt.end(), more.begin(), more.end());
  }
}

TEST_P(SharedPrefix, ClearedAndPinnedWhileRequestsRun) {
  const auto specs = specs_with_one_prefix(8);
  Herd herd(options_);
  std::vector<RequestId> ids;
  for (const Spec& spec : specs) {
    ids.push_back(herd.submit(spec));
    herd.step();
    herd.engine.pin("it", 0, spec.prompt, 0);
    herd.engine.clear_cache();
    herd.step();
    herd.engine.unpin("it");
  }
  herd.run();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(herd[ids[i]], run_alone(specs[i], options_));
  }
  herd.engine.clear_cache();
  EXPECT_EQ(herd.backend.n_cells_used(), 0);
  EXPECT_EQ(herd.engine.metrics().cache.n_pins, 0);
}

}  // namespace
}  // namespace llamaherd

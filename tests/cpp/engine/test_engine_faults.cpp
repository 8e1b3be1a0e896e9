#include <gtest/gtest.h>

#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "support.h"

namespace llamaherd {
namespace {

/// Whether prompts get calls of their own; whether the memory can be trimmed.
class EngineFaults : public ::testing::TestWithParam<std::tuple<bool, bool>> {
 protected:
  EngineFaults() : options_(small_herd()) {
    options_.plan.calibration = std::get<0>(GetParam()) ? split_calibration() : joint_calibration();
    options_.fake.info.partial_removal = std::get<1>(GetParam());
  }

  /// Some end while others come; prompts take several chunks.
  static std::vector<Spec> some_specs() {
    std::mt19937 rng(15);
    std::vector<Spec> specs;
    for (std::int32_t n_prompt : {3, 40, 1, 12, 25, 2}) {
      specs.push_back(random_spec(rng, 4, 12));
      specs.back().prompt = random_prompt(rng, n_prompt);
      specs.back().params.max_tokens = 6 + n_prompt % 4;
    }
    return specs;
  }

  std::vector<Outcome> alone(const std::vector<Spec>& specs) {
    std::vector<Outcome> outcomes;
    for (const Spec& spec : specs) outcomes.push_back(run_alone(spec, options_));
    return outcomes;
  }

  HerdOptions options_;
};

std::string mode_name(const ::testing::TestParamInfo<std::tuple<bool, bool>>& info) {
  return std::string(std::get<0>(info.param) ? "SplitPrefill" : "OneCall") +
         (std::get<1>(info.param) ? "" : "Untrimmable");
}
INSTANTIATE_TEST_SUITE_P(All, EngineFaults,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool()), mode_name);

std::vector<Fault> all_faults() {
  std::vector<Fault> faults = {{Fault::Kind::kStatus, DecodeStatus::kNoRoom, 0},
                               {Fault::Kind::kStatus, DecodeStatus::kInvalidBatch, 0},
                               {Fault::Kind::kNan, DecodeStatus::kOk, 0}};
  for (std::int32_t n_applied : {0, 1, 2, 3, 5, 8, 100}) {
    faults.push_back({Fault::Kind::kStatus, DecodeStatus::kAborted, n_applied});
    faults.push_back({Fault::Kind::kStatus, DecodeStatus::kFailed, n_applied});
    faults.push_back({Fault::Kind::kThrow, DecodeStatus::kFailed, n_applied});
  }
  return faults;
}

TEST_P(EngineFaults, OneFaultAtAnyCallChangesNoOutput) {
  const auto specs = some_specs();
  const auto expected = alone(specs);
  Herd undisturbed(options_);
  ASSERT_EQ(run_together(undisturbed, specs), expected);
  for (const Fault& fault : all_faults()) {
    for (std::int64_t call = 0; call < undisturbed.backend.n_calls(); ++call) {
      options_.fake.faults = {{call, fault}};
      Herd herd(options_);
      const auto outcomes = run_together(herd, specs);
      const std::string where = "call " + std::to_string(call) + " kind " +
                                std::to_string(static_cast<int>(fault.kind)) + " status " +
                                std::to_string(static_cast<int>(fault.status)) + " after " +
                                std::to_string(fault.n_applied) + " rows";
      // Refused alone is refused for ever.
      const bool hopeless = fault.kind == Fault::Kind::kStatus &&
                            fault.status == DecodeStatus::kInvalidBatch &&
                            herd.backend.faulted_seqs().size() == 1;
      int n_errors = 0;
      for (std::size_t i = 0; i < specs.size(); ++i) {
        if (hopeless && outcomes[i].reason == FinishReason::kError) {
          ++n_errors;
        } else {
          ASSERT_EQ(outcomes[i], expected[i]) << where << " request " << i;
        }
      }
      ASSERT_EQ(n_errors, hopeless) << where;
    }
  }
}

TEST_P(EngineFaults, ManyAbortsInARowOnlyTakeTime) {
  const auto specs = some_specs();
  for (std::int64_t call = 3; call < 33; ++call) {
    options_.fake.faults[call] = {Fault::Kind::kStatus, DecodeStatus::kAborted,
                                  static_cast<std::int32_t>(call % 7)};
  }
  Herd herd(options_);
  EXPECT_EQ(run_together(herd, specs), alone(specs));
  EXPECT_EQ(herd.engine.metrics().n_aborted, 30);
}

TEST_P(EngineFaults, IdenticalPromptsThatWereSpoiledTogetherAreBothRunAgain) {
  // Too short to wait for each other; when the second is run again, the first has left its logits.
  options_.plan.calibration = joint_calibration();
  options_.fake.faults[0] = {Fault::Kind::kNan};
  Herd herd(options_);
  const Spec spec = greedy({5, 6, 7}, 10);
  const auto outcomes = run_together(herd, {spec, spec});
  EXPECT_EQ(outcomes[0], run_alone(spec));
  EXPECT_EQ(outcomes[1], run_alone(spec));
  EXPECT_EQ(herd.engine.metrics().n_cache_rebuilds, 1);
}

TEST_P(EngineFaults, FailingAloneOnceIsForgiven) {
  options_.fake.faults[2] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 1};
  options_.fake.faults[5] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 1};
  Herd herd(options_);
  const Spec spec = greedy({5, 6, 7}, 10);
  EXPECT_EQ(run_together(herd, {spec})[0], run_alone(spec));
}

TEST_P(EngineFaults, FailingAloneTwiceEndsTheRequestWithTheCause) {
  options_.fake.faults[2] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 1};
  options_.fake.faults[3] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 1};
  Herd herd(options_);
  const Spec spec = greedy({5, 6, 7}, 10);
  const Outcome o = run_together(herd, {spec})[0];
  EXPECT_EQ(o.reason, FinishReason::kError);
  EXPECT_EQ(o.error, "the decode call failed: scripted");
  EXPECT_EQ(o.token_ids.size(), 2u);
  EXPECT_EQ(herd.engine.metrics().n_finished_error, 1);
  const RequestId next = herd.submit(spec);
  herd.run();
  EXPECT_EQ(herd[next], run_alone(spec)) << "the engine goes on";
}

TEST_P(EngineFaults, AChunkThatIsCommittedForgivesWhatFailedBefore) {
  options_.fake.faults[1] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 1};
  options_.fake.faults[3] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 1};
  const Spec spec = greedy(std::vector<TokenId>(90, 5), 4);
  Herd herd(options_);
  EXPECT_EQ(run_together(herd, {spec})[0], run_alone(spec));
  EXPECT_EQ(herd.engine.metrics().n_failed, 2);
}

TEST_P(EngineFaults, APromptsFailedChunkIsRetriedWithoutTheRestOfIt) {
  options_.fake.info.partial_removal = true;
  options_.fake.faults[1] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 1};
  Herd herd(options_);
  const RequestId id = herd.submit(greedy(std::vector<TokenId>(90, 5), 4));
  herd.step();
  herd.step();
  EXPECT_EQ(herd.engine.metrics().n_failed, 1);
  EXPECT_TRUE(herd[id].token_ids.empty());
}

TEST_P(EngineFaults, ACursedRequestEndsAloneWhateverItsPlace) {
  for (DecodeStatus curse : {DecodeStatus::kFailed, DecodeStatus::kInvalidBatch}) {
    options_.fake.curse = curse;
    for (std::size_t place = 0; place < 6; ++place) {
      auto specs = some_specs();
      auto expected = alone(specs);
      auto& prompt = specs[place].prompt;
      prompt[prompt.size() / 2] = kCursed;
      Herd herd(options_);
      const auto outcomes = run_together(herd, specs);
      for (std::size_t i = 0; i < specs.size(); ++i) {
        if (i != place) {
          ASSERT_EQ(outcomes[i], expected[i]) << "place " << place;
        }
      }
      EXPECT_EQ(outcomes[place].reason, FinishReason::kError);
      EXPECT_TRUE(outcomes[place].token_ids.empty());
      EXPECT_EQ(outcomes[place].error, curse == DecodeStatus::kFailed
                                           ? "the decode call failed"
                                           : "the backend rejected its rows as invalid");
    }
  }
}

TEST_P(EngineFaults, APoisonedRequestEndsAloneWhateverItsPlace) {
  for (bool contagious : {false, true}) {
    options_.fake.contagious = contagious;
    for (std::size_t place = 0; place < 6; ++place) {
      for (bool first_token : {false, true}) {
        auto specs = some_specs();
        auto expected = alone(specs);
        auto& prompt = specs[place].prompt;
        prompt[first_token ? 0 : prompt.size() - 1] = kPoison;
        Herd herd(options_);
        const auto outcomes = run_together(herd, specs);
        for (std::size_t i = 0; i < specs.size(); ++i) {
          if (i != place) {
            ASSERT_EQ(outcomes[i], expected[i]) << "place " << place;
          }
        }
        EXPECT_EQ(outcomes[place].reason, FinishReason::kError);
        EXPECT_EQ(outcomes[place].error, "its logits are not finite, also when computed alone");
        EXPECT_TRUE(outcomes[place].token_ids.empty());
      }
    }
  }
}

TEST_P(EngineFaults, SeveralPoisonedAndCursedRequestsEndAndNoOther) {
  options_.fake.contagious = true;
  auto specs = some_specs();
  const auto expected = alone(specs);
  specs[0].prompt[1] = kPoison;
  specs[2].prompt[0] = kCursed;
  specs[4].prompt[20] = kPoison;
  Herd herd(options_);
  const auto outcomes = run_together(herd, specs);
  for (std::size_t i : {0, 2, 4}) EXPECT_EQ(outcomes[i].reason, FinishReason::kError);
  for (std::size_t i : {1, 3, 5}) EXPECT_EQ(outcomes[i], expected[i]);
}

TEST_P(EngineFaults, APoisonedPromptIsFoundBeforeItsEndByWhomItInfects) {
  options_.fake.contagious = true;
  Herd herd(options_);
  std::vector<TokenId> prompt(60, 5);
  prompt[0] = kPoison;
  const RequestId other = herd.submit(greedy({5, 6, 7}, 40));
  herd.step();
  const RequestId poisoned = herd.submit(greedy(prompt, 5));
  herd.run();
  EXPECT_EQ(herd[poisoned].reason, FinishReason::kError);
  EXPECT_EQ(herd[other], run_alone(greedy({5, 6, 7}, 40)));
  EXPECT_EQ(herd.engine.metrics().n_cache_rebuilds, 2);
}

TEST_P(EngineFaults, AFailureWhilePoisonIsLookedForIsForgivenAsAnyOther) {
  options_.fake.contagious = true;
  std::vector<Spec> specs = {greedy({5, 6, 7}, 10), greedy({8, kPoison}, 10), greedy({9}, 10)};
  for (std::int64_t call = 1; call < 9; ++call) {
    options_.fake.faults = {{call, {Fault::Kind::kThrow, DecodeStatus::kFailed, 1}}};
    Herd herd(options_);
    const auto outcomes = run_together(herd, specs);
    EXPECT_EQ(outcomes[0], run_alone(specs[0])) << call;
    EXPECT_EQ(outcomes[1].reason, FinishReason::kError) << call;
    EXPECT_EQ(outcomes[2], run_alone(specs[2])) << call;
    EXPECT_EQ(herd.engine.metrics().n_failed, 1);
  }
}

TEST_P(EngineFaults, ACancelledPoisonInfectsNobody) {
  options_.fake.contagious = true;
  Herd herd(options_);
  std::vector<TokenId> prompt(60, 5);
  prompt[0] = kPoison;
  const RequestId poisoned = herd.submit(greedy(prompt, 5));
  herd.step();
  ASSERT_FALSE(herd[poisoned].reason) << "its prompt takes several steps";
  herd.cancel(poisoned);
  const RequestId other = herd.submit(greedy({5, 6, 7}, 10));
  herd.run();
  EXPECT_EQ(herd[other], run_alone(greedy({5, 6, 7}, 10)));
}

TEST_P(EngineFaults, ATransientNanCostsAnUntouchedNeighbourNothing) {
  options_.fake.faults[4] = {Fault::Kind::kNan, DecodeStatus::kOk, 0};
  Herd herd(options_);
  const Spec spec = greedy({5, 6, 7}, 10);
  EXPECT_EQ(run_together(herd, {spec})[0], run_alone(spec));
  EXPECT_EQ(herd.engine.metrics().n_poisoned_rows, 1);
  EXPECT_EQ(herd.engine.metrics().n_cache_rebuilds, 0);
}

TEST_P(EngineFaults, UntrimmableMemoryIsDroppedAndPrefilledAgain) {
  options_.fake.faults[5] = {Fault::Kind::kThrow, DecodeStatus::kFailed, 100};
  Herd herd(options_);
  const std::vector<Spec> specs = {greedy({5, 6, 7}, 10), greedy({8, 9}, 10)};
  EXPECT_EQ(run_together(herd, specs), alone(specs));
  const bool dropped = !options_.fake.info.partial_removal;
  EXPECT_EQ(herd.engine.metrics().n_sequences_dropped, dropped ? 2 : 0);
  EXPECT_EQ(herd.engine.metrics().n_cache_rebuilds, dropped ? 1 : 0);
}

}  // namespace
}  // namespace llamaherd

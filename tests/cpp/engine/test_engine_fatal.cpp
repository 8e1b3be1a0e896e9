#include <gtest/gtest.h>

#include <random>
#include <string>

#include "common/error.h"
#include "engine_thread_fixture.h"

namespace llamaherd {
namespace {

using EngineFatal = EngineThreadTest;

TEST_F(EngineFatal, AFatalErrorIsStickyAndEverybodyIsTold) {
  // Broken from the start, and after some requests have gained tokens.
  for (std::int64_t call : {0, 6}) {
    for (bool in_edit : {false, true}) {
      options_.fake = small_herd().fake;
      (in_edit ? options_.fake.edits_throw_from : options_.fake.logits_throw_from) = call;
      const std::string cause = in_edit ? "edits are broken" : "logits are broken";
      start();
      std::mt19937 rng(17);
      engine_->hold();
      for (int i = 0; i < 9; ++i) submit(random_spec(rng, 30, 8));
      engine_->release();
      drain_all(true);
      int n_errors = 0;
      for (const auto& [id, outcome] : collector_.all()) {
        if (outcome.reason != FinishReason::kError) continue;
        EXPECT_EQ(outcome.error, cause);
        ++n_errors;
      }
      EXPECT_GT(n_errors, 0);
      EXPECT_EQ(engine_->fatal_error(), cause);
      for (int i = 0; i < 2; ++i) {
        try {
          engine_->submit({1}, SamplingParams{});
          FAIL();
        } catch (const EngineDeadError& error) {
          EXPECT_EQ(error.what(), "the engine stopped after a fatal error: " + cause);
        }
      }
      engine_->close();
      EXPECT_EQ(engine_->fatal_error(), cause);
      collector_ = {};
    }
  }
}

TEST_F(EngineFatal, SteppedModeThrowsTheFatalErrorAgainAndAgain) {
  options_.fake.logits_throw_from = 0;
  start(EngineThread::Mode::kStepped);
  const RequestId id = submit(greedy({5, 6, 7}, 6));
  for (int i = 0; i < 2; ++i) {
    try {
      engine_->step();
      FAIL();
    } catch (const EngineDeadError& error) {
      EXPECT_STREQ(error.what(), "the engine stopped after a fatal error: logits are broken");
    }
  }
  drain_all(true);
  EXPECT_EQ(collector_[id].error, "logits are broken");
}

}  // namespace
}  // namespace llamaherd

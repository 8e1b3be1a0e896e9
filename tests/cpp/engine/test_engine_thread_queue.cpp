#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "common/error.h"
#include "engine_thread_fixture.h"

namespace llamaherd {
namespace {

class EngineThreadQueue : public EngineThreadTest {
 protected:
  /// The message of the refusal, or "" if it was taken.
  std::string refusal(const Spec& spec) {
    try {
      submit(spec);
    } catch (const QueueFullError& error) {
      EXPECT_GT(error.retry_after_s, 0);
      return error.what();
    }
    return "";
  }

  const Spec spec_ = greedy({5, 6, 7}, 30);
};

TEST_F(EngineThreadQueue, TakesAsManyAsCanStartAndWait) {
  options_.limits.max_queued = 3;
  start(EngineThread::Mode::kStepped);
  for (int i = 0; i < 4 + 3; ++i) EXPECT_EQ(refusal(spec_), "");
  const std::string full =
      "at most 3 requests may be queued (max_queued); 3 are queued and this prompt adds 1";
  EXPECT_EQ(refusal(spec_), full);
  engine_->step();
  EXPECT_EQ(refusal(spec_), full);
  while (engine_->metrics().n_waiting == 3) engine_->step();
  EXPECT_EQ(refusal(spec_), "");
  while (engine_->step()) {
  }
  collector_.take(engine_->drain(0));
  EXPECT_TRUE(collector_.complete());
  for (const auto& [id, outcome] : collector_.all()) EXPECT_EQ(outcome, run_alone(spec_));
}

TEST_F(EngineThreadQueue, TakesTheOutputsOfOnePromptTogether) {
  options_.limits.max_queued = 5;
  start(EngineThread::Mode::kStepped);
  Spec many = spec_;
  many.params.n = 2;
  many.params.best_of = 9;
  many.params.temperature = 1.0f;
  many.params.seed = 3;
  const RequestId first = engine_->submit(many.prompt, many.params);
  for (RequestId id = first; id < first + 9; ++id) collector_.expect(id);
  EXPECT_EQ(refusal(spec_),
            "at most 5 requests may be queued (max_queued); 5 are queued and this prompt adds 1");
  while (engine_->step()) {
  }
  const std::vector<Delta> deltas = engine_->drain(0);
  collector_.take(deltas);
  EXPECT_TRUE(collector_.complete());
  for (const Delta& delta : deltas) {
    EXPECT_EQ(static_cast<RequestId>(delta.index), delta.request_id - first);
  }
  many.seed = 3;
  EXPECT_EQ(collector_[first], run_alone(many)) << "the first is what one alone would be";
  EXPECT_NE(collector_[first].token_ids, collector_[first + 1].token_ids);
}

TEST_F(EngineThreadQueue, EachOutputTakesAPlace) {
  options_.limits.max_queued = 3;
  start(EngineThread::Mode::kStepped);
  Spec many = spec_;
  many.params.n = 4 + 3 + 1;
  EXPECT_THROW(submit(many), InvalidRequestError) << "it will never have room";
  many.params.n = 6;
  EXPECT_EQ(refusal(spec_), "");
  EXPECT_EQ(refusal(spec_), "");
  EXPECT_EQ(refusal(many),
            "at most 3 requests may be queued (max_queued); 0 are queued and this prompt adds 6");
  many.params.n = 5;
  const RequestId first = engine_->submit(many.prompt, many.params);
  for (RequestId id = first; id < first + 5; ++id) collector_.expect(id);
  EXPECT_NE(refusal(spec_), "");
  while (engine_->step()) {
  }
  collector_.take(engine_->drain(0));
  EXPECT_TRUE(collector_.complete());
}

TEST_F(EngineThreadQueue, RefusesSeveralPrivateOutputs) {
  start(EngineThread::Mode::kStepped);
  SamplingParams params = spec_.params;
  params.n = 2;
  SubmitOptions options;
  options.cache_space.reset();
  EXPECT_THROW(engine_->submit(spec_.prompt, params, options), InvalidRequestError);
}

TEST_F(EngineThreadQueue, BoundsTheTokensThatWait) {
  options_.limits.max_queued_tokens = 50;
  start(EngineThread::Mode::kStepped);
  for (TokenId i = 1; i <= 4; ++i) {
    EXPECT_EQ(refusal(greedy(std::vector<TokenId>(20, i), 30)), "");
  }
  engine_->step();
  EXPECT_EQ(refusal(greedy(std::vector<TokenId>(60, 3), 30)), "")
      << "one may be as long as it likes";
  EXPECT_EQ(refusal(greedy({1}, 2)),
            "at most 50 prompt tokens may be queued (max_queued_tokens), counted per output; "
            "60 are queued and this prompt adds 1");
  do {
    engine_->step();
  } while (engine_->metrics().n_waiting > 0);
  EXPECT_EQ(refusal(greedy({1}, 2)), "");
}

TEST_F(EngineThreadQueue, AFullOneSaysWhenThereWillBeAPlace) {
  constexpr double kStepS = 1000;  // beside which what the test takes is nothing
  Calibration calibration;
  calibration.points = {{1, kStepS * 1e9}};
  options_.plan.calibration = calibration;
  options_.limits.max_queued = 1;
  options_.fake.info.n_seqs = 1;
  start(EngineThread::Mode::kStepped);
  submit(spec_);
  submit(spec_);
  engine_->step();
  try {
    submit(spec_);
    FAIL() << "it was taken";
  } catch (const QueueFullError& error) {
    // No step was timed, and no request has ended.
    EXPECT_NEAR(error.retry_after_s, kDefaultMaxTokens * kStepS, kStepS);
  }
  while (engine_->metrics().n_waiting > 0) engine_->step();
  EXPECT_EQ(refusal(spec_), "");
}

TEST_F(EngineThreadQueue, CancellingEverybodyAbortsTheCallUnderWay) {
  start();
  backend_->hang(true);
  std::vector<RequestId> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(submit(spec_));
  wait_until_hanging();
  for (RequestId id : ids) engine_->cancel(id);  // the call hangs until it is aborted
  drain_all(false);
  for (RequestId id : ids) EXPECT_EQ(collector_[id].reason, FinishReason::kCancelled);
  backend_->hang(false);
  const RequestId next = submit(spec_);
  drain_all(false);
  EXPECT_EQ(collector_[next], run_alone(spec_));
  EXPECT_EQ(engine_->metrics().n_aborted, 1);
}

TEST_F(EngineThreadQueue, ADeadlineCountsFromSubmission) {
  options_.fake.decode_ns = 2'000'000;
  start();
  const RequestId id = engine_->submit(spec_.prompt, spec_.params, {}, {.deadline_s = 0.02});
  collector_.expect(id);
  drain_all(false);
  EXPECT_EQ(collector_[id].reason, FinishReason::kDeadline);
}

TEST_F(EngineThreadQueue, RefusesWhatIsOutOfRange) {
  start();
  const auto submit_with = [this](const SchedulingOptions& scheduling) {
    engine_->submit({1}, SamplingParams{}, {}, scheduling);
  };
  EXPECT_THROW(submit_with({.priority = -1}), InvalidRequestError);
  EXPECT_THROW(submit_with({.priority = 101}), InvalidRequestError);
  EXPECT_THROW(submit_with({.tenant = std::string(257, 'x')}), InvalidRequestError);
  EXPECT_THROW(submit_with({.deadline_s = 0.0}), InvalidRequestError);
  EXPECT_THROW(submit_with({.ttft_deadline_s = -1.0}), InvalidRequestError);
  EXPECT_THROW(submit_with({.ttft_deadline_s = std::numeric_limits<double>::quiet_NaN()}),
               InvalidRequestError);
}

TEST_F(EngineThreadQueue, HealthTellsAHangingCallAndAClosedEngine) {
  start();
  EXPECT_TRUE(engine_->health().ok);
  backend_->hang(true);
  submit(spec_);
  wait_until_hanging();
  EXPECT_GT(engine_->health().call_s, 0);
  EXPECT_EQ(engine_->health().n_waiting + engine_->health().n_running, 1);
  engine_->close();
  EXPECT_EQ(engine_->health().reason, "closed");
}

TEST_F(EngineThreadQueue, TellsTheProgressOfEachRequest) {
  start(EngineThread::Mode::kStepped);
  std::vector<RequestId> ids;
  for (int i = 0; i < 4 + 3; ++i) ids.push_back(submit(spec_));
  EXPECT_EQ(engine_->progress(ids[6], 0)->queue_position, 7) << "no step has begun";
  engine_->step();
  for (int i = 0; i < 4 + 3; ++i) {
    const auto progress = engine_->progress(ids[i], 0);
    ASSERT_TRUE(progress);
    EXPECT_EQ(progress->queue_position, i < 4 ? 0 : i - 3);
    EXPECT_EQ(progress->n_prompt, 3);
    EXPECT_EQ(progress->n_computed, i < 4 ? 3 : 0);
    EXPECT_EQ(progress->start_ns > 0, i < 4);
  }
  engine_->cancel(ids[4]);
  engine_->step();
  EXPECT_FALSE(engine_->progress(ids[4], 0));
  EXPECT_EQ(engine_->progress(ids[6], 0)->queue_position, 2);
  EXPECT_FALSE(engine_->progress(12345, 0));
  engine_->close();
  EXPECT_FALSE(engine_->progress(ids[6], 0));
}

TEST_F(EngineThreadQueue, ProgressComesWithTheEndOfAStep) {
  start();
  backend_->hang(true);
  const RequestId id = submit(spec_);
  wait_until_hanging();
  const auto before = engine_->progress(id, 0.01);
  ASSERT_TRUE(before);
  EXPECT_EQ(before->queue_position, 1) << "an estimate";
  engine_->hold();
  backend_->hang(false);
  auto after = before;
  while (after && after->time_ns == before->time_ns) {
    std::this_thread::yield();
    after = engine_->progress(id, 0);
  }
  ASSERT_TRUE(after);
  EXPECT_EQ(after->queue_position, 0);
  EXPECT_EQ(after->n_computed, 3);
  engine_->release();
  drain_all(false);
}

TEST_F(EngineThreadQueue, ClosingAnswersWhoAsksForProgress) {
  start();
  backend_->hang(true);
  const RequestId id = submit(spec_);
  wait_until_hanging();
  std::thread asking([&] {
    while (engine_->progress(id, kLong)) std::this_thread::yield();
  });
  engine_->close();
  asking.join();
  drain_all(true);
}

}  // namespace
}  // namespace llamaherd

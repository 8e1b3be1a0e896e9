#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.h"
#include "engine_thread_fixture.h"

namespace llamaherd {
namespace {

TEST_F(EngineThreadTest, GivesWhatTheEngineGives) {
  start();
  std::mt19937 rng(16);
  std::vector<std::pair<RequestId, Spec>> requests;
  for (int i = 0; i < 20; ++i) {
    const Spec spec = random_spec(rng, 40, 20);
    requests.emplace_back(submit(spec), spec);
  }
  drain_all(false);
  for (const auto& [id, spec] : requests) EXPECT_EQ(collector_[id], run_alone(spec));
  EXPECT_FALSE(engine_->finished());
  EXPECT_EQ(engine_->metrics().n_submitted, 20);
}

TEST_F(EngineThreadTest, SubmitRefusesWhatBreaksARule) {
  start();
  SamplingParams bad;
  bad.top_p = 2;
  EXPECT_THROW(engine_->submit({1}, bad), InvalidRequestError);
  EXPECT_THROW(engine_->submit({}, SamplingParams{}), InvalidRequestError);
  EXPECT_THROW(engine_->submit({kVocab}, SamplingParams{}), InvalidRequestError);
  EXPECT_EQ(engine_->metrics().n_submitted, 0);
}

TEST_F(EngineThreadTest, WithoutASeedRequestsDiffer) {
  start();
  Spec spec = greedy({5, 6}, 30);
  spec.params.temperature = 5;
  spec.params.ignore_eos = true;
  std::vector<RequestId> ids;
  for (int i = 0; i < 2; ++i) {
    ids.push_back(engine_->submit(spec.prompt, spec.params));
    collector_.expect(ids.back());
  }
  drain_all(false);
  EXPECT_NE(collector_[ids[0]], collector_[ids[1]]);
}

TEST_F(EngineThreadTest, DrainWaitsNoLongerThanAsked) {
  start();
  EXPECT_TRUE(engine_->drain(0).empty());
  EXPECT_TRUE(engine_->drain(0.001).empty());
}

TEST_F(EngineThreadTest, CancelEndsARequest) {
  options_.limits.max_len = 200;
  start();
  backend_->hang(true);
  const RequestId id = submit(greedy({5, 6}, 190));
  const RequestId other = submit(greedy({7}, 5));
  engine_->cancel(id);
  engine_->cancel(12345);
  backend_->hang(false);
  drain_all(false);
  EXPECT_EQ(collector_[id].reason, FinishReason::kCancelled);
  EXPECT_EQ(collector_[other], run_alone(greedy({7}, 5)));
}

TEST_F(EngineThreadTest, WhatIsSubmittedWhileHeldStartsTogether) {
  start();
  engine_->hold();
  engine_->hold();
  for (int i = 0; i < 4; ++i) submit(greedy({5, 6}, 20));
  engine_->release();
  EXPECT_TRUE(engine_->drain(0.05).empty());
  engine_->release();
  drain_all(false);
  EXPECT_EQ(engine_->metrics().n_prefill_calls, 1);
}

TEST_F(EngineThreadTest, CloseDoesNotWaitForARelease) {
  start();
  engine_->hold();
  const RequestId id = submit(greedy({5, 6}, 20));
  engine_->close();
  drain_all(true);
  EXPECT_EQ(collector_[id].reason, FinishReason::kCancelled);
}

TEST_F(EngineThreadTest, ManyThreadsSubmitCancelAndDrain) {
  start();
  std::atomic<int> n_submitted = 0;
  std::vector<std::thread> callers;
  for (unsigned t = 0; t < 4; ++t) {
    callers.emplace_back([&, t] {
      std::mt19937 rng(t);
      for (int i = 0; i < 50; ++i) {
        // Held over the submit, so that no delta comes before its request is known.
        const std::lock_guard lock(mutex_);
        const Spec spec = random_spec(rng, 20, 10);
        const RequestId id = engine_->submit(spec.prompt, spec.params);
        collector_.expect(id);
        ++n_submitted;
        if (rng() % 3 == 0) engine_->cancel(id);
        engine_->metrics();
      }
    });
  }
  std::thread drainer([&] { drain_all(true); });
  for (std::thread& caller : callers) caller.join();
  engine_->close();
  drainer.join();
  EXPECT_EQ(n_submitted, 200);
  EXPECT_EQ(collector_.all().size(), 200u);
  EXPECT_TRUE(collector_.complete());
  EXPECT_EQ(engine_->metrics().n_running + engine_->metrics().n_waiting, 0);
}

TEST_F(EngineThreadTest, CloseAbortsADecodeUnderWayAndCancelsAll) {
  start();
  backend_->hang(true);
  for (int i = 0; i < 9; ++i) submit(greedy({5, 6}, 20));
  wait_until_hanging();
  engine_->close();
  drain_all(true);
  for (const auto& [id, outcome] : collector_.all()) {
    EXPECT_EQ(outcome.reason, FinishReason::kCancelled);
  }
  EXPECT_TRUE(engine_->finished());
  EXPECT_EQ(engine_->fatal_error(), "");
}

TEST_F(EngineThreadTest, CloseIsIdempotentAndMayComeFromSeveralThreads) {
  for (EngineThread::Mode mode : {EngineThread::Mode::kThreaded, EngineThread::Mode::kStepped}) {
    start(mode);
    submit(greedy({5, 6}, 20));
    std::vector<std::thread> closers;
    for (int i = 0; i < 4; ++i) closers.emplace_back([&] { engine_->close(); });
    for (std::thread& closer : closers) closer.join();
    engine_->close();
    drain_all(true);
    EXPECT_EQ(engine_->drain(kLong).size(), 0u) << "an ended engine keeps nobody waiting";
    collector_ = {};
  }
}

TEST_F(EngineThreadTest, CloseWakesAWaitingDrain) {
  for (int n_yields = 0; n_yields < 100; ++n_yields) {  // soon before it waits, soon after
    start();
    std::latch begun(1);
    std::thread drainer([&] {
      begun.count_down();
      EXPECT_TRUE(engine_->drain(1000).empty());
    });
    begun.wait();
    for (int i = 0; i < n_yields; ++i) std::this_thread::yield();
    engine_->close();
    drainer.join();
  }
}

TEST_F(EngineThreadTest, SubmittingAfterCloseThrows) {
  start();
  engine_->close();
  EXPECT_THROW(engine_->submit({1}, SamplingParams{}), EngineDeadError);
  engine_->cancel(1);
  EXPECT_EQ(engine_->fatal_error(), "");
}

TEST_F(EngineThreadTest, ADestructorWithRequestsUnderWayReturns) {
  start();
  backend_->hang(true);
  submit(greedy({5, 6}, 20));
  wait_until_hanging();
  engine_.reset();
}

TEST_F(EngineThreadTest, SteppedModeRunsInTheCaller) {
  start(EngineThread::Mode::kStepped);
  EXPECT_FALSE(engine_->step());
  const Spec spec = greedy({5, 6, 7}, 6);
  const RequestId id = submit(spec);
  EXPECT_TRUE(engine_->drain(0).empty()) << "nothing runs by itself";
  while (engine_->step()) {
  }
  collector_.take(engine_->drain(0));
  EXPECT_EQ(collector_[id], run_alone(spec));
  const RequestId cancelled = submit(spec);
  engine_->cancel(cancelled);
  EXPECT_FALSE(engine_->step());
  const RequestId open = submit(spec);
  engine_->close();
  drain_all(true);
  EXPECT_EQ(collector_[cancelled].reason, FinishReason::kCancelled);
  EXPECT_EQ(collector_[open].reason, FinishReason::kCancelled);
  EXPECT_THROW(engine_->step(), EngineDeadError);
}

TEST_F(EngineThreadTest, AThreadedEngineIsNotToBeStepped) {
  start();
  EXPECT_THROW(engine_->step(), LlamaHerdError);
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine_thread.h"
#include "error.h"
#include "support.h"

namespace llamaherd {
namespace {

constexpr double kLong = 30;  // seconds that no test comes near

class EngineThreadTest : public ::testing::Test {
 protected:
  void start(EngineThread::Mode mode = EngineThread::Mode::kThreaded) {
    auto backend = std::make_unique<FakeBackend>(options_.fake);
    backend_ = backend.get();
    engine_ = std::make_unique<EngineThread>(std::move(backend), make_table(), options_.limits,
                                             options_.budget, mode);
  }

  RequestId submit(const Spec& spec) {
    SamplingParams params = spec.params;
    params.seed = spec.seed;
    const RequestId id = engine_->submit(spec.prompt, params);
    const std::lock_guard lock(mutex_);
    collector_.expect(id);
    return id;
  }

  /// Until the engine has ended, or every request known so far has.
  void drain_all(bool until_ended) {
    while (!engine_->finished()) {
      const auto deltas = engine_->drain(kLong);
      ASSERT_TRUE(!deltas.empty() || engine_->finished()) << "the engine hangs";
      const std::lock_guard lock(mutex_);
      collector_.take(deltas);
      if (!until_ended && collector_.complete()) return;
    }
    EXPECT_TRUE(collector_.complete());
  }

  HerdOptions options_ = small_herd();
  FakeBackend* backend_ = nullptr;
  std::unique_ptr<EngineThread> engine_;
  std::mutex mutex_;
  Collector collector_;
};

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
  EXPECT_THROW(engine_->submit({}, {}), InvalidRequestError);
  EXPECT_THROW(engine_->submit({kVocab}, {}), InvalidRequestError);
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
  start();
  std::thread drainer([&] { EXPECT_TRUE(engine_->drain(1000).empty()); });
  engine_->close();
  drainer.join();
}

TEST_F(EngineThreadTest, SubmittingAfterCloseThrows) {
  start();
  engine_->close();
  EXPECT_THROW(engine_->submit({1}, {}), EngineDeadError);
  engine_->cancel(1);
  EXPECT_EQ(engine_->fatal_error(), "");
}

TEST_F(EngineThreadTest, ADestructorWithRequestsUnderWayReturns) {
  start();
  backend_->hang(true);
  submit(greedy({5, 6}, 20));
  engine_.reset();
}

TEST_F(EngineThreadTest, AFatalErrorIsStickyAndEverybodyIsTold) {
  // Broken from the start, and after some requests have gained tokens.
  for (std::int64_t call : {0, 6}) {
    for (bool in_apply : {false, true}) {
      options_.fake = small_herd().fake;
      (in_apply ? options_.fake.apply_throws_from : options_.fake.logits_throw_from) = call;
      const std::string cause = in_apply ? "apply is broken" : "logits are broken";
      start();
      std::mt19937 rng(17);
      for (int i = 0; i < 9; ++i) {
        try {
          submit(random_spec(rng, 30, 8));
        } catch (const EngineDeadError&) {
          break;  // it was quicker
        }
      }
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
          engine_->submit({1}, {});
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

TEST_F(EngineThreadTest, SteppedModeThrowsTheFatalErrorAgainAndAgain) {
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

TEST_F(EngineThreadTest, AThreadedEngineIsNotToBeStepped) {
  start();
  EXPECT_THROW(engine_->step(), LlamaHerdError);
}

}  // namespace
}  // namespace llamaherd

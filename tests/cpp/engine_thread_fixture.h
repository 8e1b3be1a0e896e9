#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "engine/engine_thread.h"
#include "support.h"

namespace llamaherd {

inline constexpr double kLong = 30;  // seconds that no test comes near

class EngineThreadTest : public ::testing::Test {
 protected:
  void start(EngineThread::Mode mode = EngineThread::Mode::kThreaded) {
    auto backend = std::make_unique<FakeBackend>(options_.fake);
    backend_ = backend.get();
    engine_ = std::make_unique<EngineThread>(std::move(backend), make_table(), options_.limits,
                                             options_.plan, mode, options_.cache);
  }

  RequestId submit(const Spec& spec) {
    SamplingParams params = spec.params;
    params.seed = spec.seed;
    const RequestId id = engine_->submit(spec.prompt, params);
    const std::lock_guard lock(mutex_);
    collector_.expect(id);
    return id;
  }

  void wait_until_hanging() {
    while (!backend_->hanging()) std::this_thread::yield();
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

}  // namespace llamaherd

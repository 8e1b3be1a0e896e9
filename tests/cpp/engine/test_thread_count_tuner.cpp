#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "engine/thread_count_tuner.h"

namespace llamaherd {
namespace {

/// Calls by number of threads, of n calls.
std::vector<int> run(ThreadCountTuner& governor, int n,
                     const std::function<double(int)>& slowness) {
  std::vector<int> n_calls(9);
  for (int i = 0; i < n; ++i) {
    const int n_threads = governor.n_threads();
    ++n_calls.at(n_threads);
    governor.observe(slowness(n_threads));
  }
  return n_calls;
}

/// One of n cores is shared with somebody else: a thread there is half as fast, and all wait for
/// it.
std::function<double(int)> shared_core(int n_cores) {
  return [n_cores](int n_threads) {
    const double alone = static_cast<double>(n_cores) / n_threads;
    return n_threads == n_cores ? 2.5 : alone;
  };
}

TEST(ThreadCountTuner, AnIdleMachineIsUsedWhole) {
  ThreadCountTuner governor(4);
  EXPECT_EQ(run(governor, 5000, [](int n) { return 4.0 / n; })[4], 5000);
}

TEST(ThreadCountTuner, LeavesABusyCoreAlone) {
  ThreadCountTuner two(2);
  run(two, 50, shared_core(2));
  EXPECT_EQ(two.n_threads(), 1);
  EXPECT_GT(run(two, 5000, shared_core(2))[1], 4800);
  ThreadCountTuner eight(8);
  run(eight, 50, shared_core(8));
  EXPECT_GT(run(eight, 5000, shared_core(8))[7], 4500);
}

TEST(ThreadCountTuner, TakesItBackWhenItIsFree) {
  ThreadCountTuner governor(2);
  run(governor, 5000, shared_core(2));
  run(governor, ThreadCountTuner::kMostWait + ThreadCountTuner::kTrialCalls,
      [](int n) { return 2.0 / n; });
  EXPECT_EQ(governor.n_threads(), 2);
}

TEST(ThreadCountTuner, ComesBackFromSeveral) {
  ThreadCountTuner governor(8);
  run(governor, 2000, [](int n) { return n > 3 ? 6.0 * n : 8.0 / n; });
  EXPECT_EQ(run(governor, 100, [](int n) { return n > 3 ? 6.0 * n : 8.0 / n; })[8], 0);
  run(governor, 4000, [](int n) { return 8.0 / n; });
  EXPECT_EQ(governor.n_threads(), 8);
}

TEST(ThreadCountTuner, WhereNothingHelpsItTriesSeldom) {
  ThreadCountTuner governor(2);
  EXPECT_GT(run(governor, 5000, [](int) { return 3.0; })[2], 4800);
}

TEST(ThreadCountTuner, OneThreadStaysOne) {
  ThreadCountTuner governor(1);
  EXPECT_EQ(run(governor, 1000, [](int) { return 9.0; })[1], 1000);
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "llama/common/devices.h"
#include "llama/common/thread_pool.h"

namespace llamaherd {
namespace {

TEST(ThreadPool, RunsEachTaskOnceOnOneOfItsThreads) {
  for (const std::int32_t n_threads : {1, 2, 4}) {
    ThreadPool pool(n_threads, 1, kernels::Mode::kStock);
    for (const std::int32_t n : {0, 1, 2, 7, 500}) {
      std::vector<std::atomic<int>> counts(n);
      std::atomic<int> n_strangers = 0;
      pool.run(n, n_threads, [&](std::int32_t i, std::int32_t thread) {
        ++counts[i];
        n_strangers += thread < 0 || thread >= n_threads;
      });
      for (const std::atomic<int>& count : counts) EXPECT_EQ(count, 1);
      EXPECT_EQ(n_strangers, 0);
    }
  }
}

TEST(ThreadPool, AnExceptionComesOutWhenAllHaveEnded) {
  ThreadPool pool(3, 1, kernels::Mode::kStock);
  std::atomic<int> n = 0;
  EXPECT_THROW(pool.run(20, 3,
                        [&](std::int32_t i, std::int32_t) {
                          ++n;
                          if (i == 4) throw std::runtime_error("four");
                        }),
               std::runtime_error);
  EXPECT_EQ(n, 20);
  pool.run(5, 2, [&](std::int32_t, std::int32_t) { ++n; });
  EXPECT_EQ(n, 25);
}

}  // namespace
}  // namespace llamaherd

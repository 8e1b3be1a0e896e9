#pragma once

#include <cstdint>

#include "ggml-cpu.h"
#include "kernels/mode.h"

namespace llamaherd {

/// CPUs this process may run on, at least 1.
std::int32_t default_n_threads();

/// The worker threads of one engine's CPU graphs. Without an attached pool ggml would create and
/// join threads for every graph; OpenMP's spinning waits would starve every other process.
class ThreadPool {
 public:
  ThreadPool(std::int32_t n_threads, std::int32_t poll, kernels::Mode mode);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  ggml_threadpool* get() const { return pool_; }
  std::int32_t n_threads() const { return n_threads_; }
  kernels::Mode mode() const { return mode_; }

 private:
  std::int32_t n_threads_;
  kernels::Mode mode_;
  ggml_threadpool* pool_;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>

#include "ggml-cpu.h"
#include "kernels/hook.h"

namespace llamaherd {

/// The worker threads of one engine's CPU graphs. Without an attached pool ggml would create and
/// join threads for every graph; OpenMP's spinning waits would starve every other process.
class ThreadPool {
 public:
  ThreadPool(std::int32_t n_threads, std::int32_t poll, bool reference_kernels)
      : n_threads_(n_threads) {
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    params.poll = static_cast<std::uint32_t>(poll);
    pool_ = ggml_threadpool_new(&params);
    if (reference_kernels) kernels::use_reference(pool_);
  }
  ~ThreadPool() {
    kernels::forget(pool_);
    ggml_threadpool_free(pool_);
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  ggml_threadpool* get() const { return pool_; }
  std::int32_t n_threads() const { return n_threads_; }

 private:
  std::int32_t n_threads_;
  ggml_threadpool* pool_;
};

}  // namespace llamaherd

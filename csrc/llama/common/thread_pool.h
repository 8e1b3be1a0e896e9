#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "kernels/common/kernel_mode.h"

namespace llamaherd {

/// Number of CPUs available to this process, at least 1.
std::int32_t default_n_threads();

/// Worker threads of one engine's CPU graphs. Without an attached pool ggml would create and join
/// threads for every graph; OpenMP's busy waiting would starve other processes.
class ThreadPool {
 public:
  ThreadPool(std::int32_t n_threads, std::int32_t poll, kernels::Mode mode,
             kernels::BatchProfile calls = kernels::BatchProfile::kFewRows);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Calls task(i, thread) once for each i in [0, n) on the first n_threads threads, including this
  /// one. Rethrows the first exception when all have ended. Must not be called while a graph is
  /// computed.
  void run(std::int32_t n, std::int32_t n_threads, const ParallelTask& task);

  ggml_threadpool* get() const { return pool_; }
  std::int32_t n_threads() const { return n_threads_; }
  kernels::Mode mode() const { return mode_; }

 private:
  struct FreeContext {
    void operator()(ggml_context* context) const { ggml_free(context); }
  };

  std::int32_t n_threads_;
  kernels::Mode mode_;
  ggml_threadpool* pool_;
  std::unique_ptr<ggml_context, FreeContext> context_;
  ggml_cgraph* tasks_;  // graph with one node, which runs the tasks
  struct Run;
  Run* run_ = nullptr;
};

}  // namespace llamaherd

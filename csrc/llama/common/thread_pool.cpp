#include "llama/common/thread_pool.h"

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "kernels/ggml/ggml_hook.h"

namespace llamaherd {

std::int32_t default_n_threads() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<std::int32_t>(std::thread::hardware_concurrency()));
}

struct ThreadPool::Run {
  const ParallelTask& task;
  std::int32_t n;
  std::atomic<std::int32_t> next = 0;
  std::mutex mutex = {};
  std::exception_ptr error = nullptr;

  void take(std::int32_t thread) {
    for (std::int32_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) {
      try {
        task(i, thread);
      } catch (...) {
        const std::scoped_lock lock(mutex);
        if (!error) error = std::current_exception();
      }
    }
  }
};

ThreadPool::ThreadPool(std::int32_t n_threads, std::int32_t poll, kernels::Mode mode,
                       kernels::BatchProfile calls)
    : n_threads_(n_threads), mode_(mode) {
  ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
  params.poll = static_cast<std::uint32_t>(poll);
  constexpr std::size_t kNodes = 1;
  context_.reset(ggml_init({ggml_tensor_overhead() * 2 + ggml_graph_overhead_custom(kNodes, false),
                            nullptr, /*no_alloc=*/false}));
  const auto take = [](ggml_tensor*, int thread, int, void* self) {
    static_cast<ThreadPool*>(self)->run_->take(thread);
  };
  ggml_tensor* node = ggml_custom_4d(context_.get(), GGML_TYPE_I8, 1, 1, 1, 1, nullptr, 0, take,
                                     GGML_N_TASKS_MAX, this);
  tasks_ = ggml_new_graph_custom(context_.get(), kNodes, false);
  ggml_build_forward_expand(tasks_, node);
  pool_ = ggml_threadpool_new(&params);
  try {
    kernels::use(pool_, mode, calls);
  } catch (...) {
    ggml_threadpool_free(pool_);
    throw;
  }
}

ThreadPool::~ThreadPool() {
  kernels::forget(pool_);
  ggml_threadpool_free(pool_);
}

void ThreadPool::run(std::int32_t n, std::int32_t n_threads, const ParallelTask& task) {
  Run run{task, n};
  run_ = &run;
  ggml_cplan plan = ggml_graph_plan(tasks_, n_threads, pool_);
  ggml_graph_compute(tasks_, &plan);
  run_ = nullptr;
  if (run.error) std::rethrow_exception(run.error);
}

}  // namespace llamaherd

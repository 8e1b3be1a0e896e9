#include "thread_pool.h"

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <thread>

#include "kernels/hook.h"

namespace llamaherd {

std::int32_t default_n_threads() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<std::int32_t>(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(std::int32_t n_threads, std::int32_t poll, kernels::Mode mode)
    : n_threads_(n_threads), mode_(mode) {
  ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
  params.poll = static_cast<std::uint32_t>(poll);
  pool_ = ggml_threadpool_new(&params);
  try {
    kernels::use(pool_, mode);
  } catch (...) {
    ggml_threadpool_free(pool_);
    throw;
  }
}

ThreadPool::~ThreadPool() {
  kernels::forget(pool_);
  ggml_threadpool_free(pool_);
}

}  // namespace llamaherd

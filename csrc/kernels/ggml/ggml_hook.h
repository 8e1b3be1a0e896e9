#pragma once

#include <string>

#include "kernels/common/kernel_mode.h"

struct ggml_threadpool;

namespace llamaherd::kernels {

/// Installs llamaherd's kernels before ggml's CPU kernels, for the whole process. They compute a
/// node only if its engine selected them or its weights are in panels. Idempotent. Must be called
/// before the first model is loaded.
void install_hook();

/// Sets the kernels of graphs computed on `pool`, until forget() is called.
void use(ggml_threadpool* pool, Mode mode, BatchProfile calls);
void forget(ggml_threadpool* pool);

/// While alive, computation of the calling thread uses the kernels of `pool`.
class ComputeScope {
 public:
  explicit ComputeScope(ggml_threadpool* pool);
  ~ComputeScope();
  ComputeScope(const ComputeScope&) = delete;
  ComputeScope& operator=(const ComputeScope&) = delete;
};

/// Name of the fast kernels for this CPU; empty if there are none.
std::string fast_kernels();

}  // namespace llamaherd::kernels

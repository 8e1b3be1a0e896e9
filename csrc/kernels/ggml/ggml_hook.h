#pragma once

#include <string>

#include "kernels/common/kernel_mode.h"

struct ggml_threadpool;

namespace llamaherd::kernels {

/// Puts our kernels in front of ggml's own CPU kernels, for the whole process. Every later graph
/// node is offered to them; they take it only if the engine it is computed for asked for them, or
/// if its weights are in panels. Idempotent; call before the first model is loaded.
void install_hook();

/// Graphs computed on `pool` use kernels of `mode` until forget() is called.
void use(ggml_threadpool* pool, Mode mode, BatchProfile calls);
void forget(ggml_threadpool* pool);

/// While one lives, what the calling thread computes is computed on `pool`.
class ComputeScope {
 public:
  explicit ComputeScope(ggml_threadpool* pool);
  ~ComputeScope();
  ComputeScope(const ComputeScope&) = delete;
  ComputeScope& operator=(const ComputeScope&) = delete;
};

/// The name of the fast kernels that this CPU can run; empty if there are none.
std::string fast_kernels();

}  // namespace llamaherd::kernels

#pragma once

#include "ggml-backend.h"
#include "kernels/common/kernel_mode.h"

struct ggml_tensor;

namespace llamaherd::kernels {

/// Buffer type that stores weights as panels. Its context, the ggml::cpu::extra_buffer_type that
/// computes with them, is set by install_hook().
ggml_backend_buffer_type_t panel_buffer_type();

bool in_panels(const ggml_tensor& weights);

/// While alive, the calling thread loads a model. With kFast, supported weights are packed into
/// panels on n_threads threads.
class LoadScope {
 public:
  LoadScope(Mode mode, int n_threads);
  ~LoadScope();
  LoadScope(const LoadScope&) = delete;
  LoadScope& operator=(const LoadScope&) = delete;
};

/// Whether weights of the model being loaded by the calling thread may be packed into panels.
bool takes_weights();

}  // namespace llamaherd::kernels

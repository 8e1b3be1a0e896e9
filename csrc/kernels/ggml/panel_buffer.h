#pragma once

#include "ggml-backend.h"
#include "kernels/common/kernel_mode.h"

struct ggml_tensor;

namespace llamaherd::kernels {

/// The buffer type that holds weights as panels. Its context, the ggml::cpu::extra_buffer_type that
/// computes with them, is set by install_hook().
ggml_backend_buffer_type_t panel_buffer_type();

bool in_panels(const ggml_tensor& weights);

/// While one lives, the calling thread loads a model: kFast puts the weights it can into panels, on
/// n_threads threads.
class LoadScope {
 public:
  LoadScope(Mode mode, int n_threads);
  ~LoadScope();
  LoadScope(const LoadScope&) = delete;
  LoadScope& operator=(const LoadScope&) = delete;
};

/// Whether the model that the calling thread loads may have its weights in panels.
bool takes_weights();

}  // namespace llamaherd::kernels

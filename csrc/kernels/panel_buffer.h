#pragma once

#include "ggml-backend.h"

struct ggml_tensor;

namespace llamaherd::kernels {

/// The buffer type that holds weights as panels; `context` is its ggml::cpu::extra_buffer_type. The
/// first call makes it.
ggml_backend_buffer_type_t panel_buffer_type(void* context);

bool in_panels(const ggml_tensor& weights);

/// Whether the model that the calling thread loads may have its weights in panels.
bool takes_weights();

}  // namespace llamaherd::kernels

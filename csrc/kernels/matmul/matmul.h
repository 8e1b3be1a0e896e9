#pragma once

#include <cstddef>

struct ggml_compute_params;
struct ggml_tensor;

namespace llamaherd::kernels {

struct PoolState;

/// MUL_MAT and MUL_MAT_ID with weights in panels. Activations are quantised to 8 bits in blocks of
/// 32 with a float scale. Products are summed exactly within a block, and in float from block to
/// block, in order: a row's result depends neither on other rows nor on the number of threads. With
/// F32, F16 and BF16 weights all arithmetic is float.

/// Whether the product of panel weights with this node's activations is supported.
bool multiplies(const ggml_tensor& dst);

/// Scratch memory of a node; also allocates memory in `state`, which may be null.
std::size_t plan_multiply(PoolState* state, const ggml_tensor& dst, int n_threads);

void multiply(PoolState* state, const ggml_compute_params& params, ggml_tensor& dst);

}  // namespace llamaherd::kernels

#pragma once

#include <cstddef>

struct ggml_compute_params;
struct ggml_tensor;

namespace llamaherd::kernels {

struct PoolState;

/// MUL_MAT and MUL_MAT_ID with weights in panels. Activations are quantised in blocks of 32 to 8
/// bits with a float scale, products summed exactly within a block and in float from block to
/// block, in order: a row's result does not depend on the rows beside it, nor on the number of
/// threads. With F32, F16 and BF16 weights everything is float.

/// Whether a product of weights in panels with this node's activations can be computed.
bool multiplies(const ggml_tensor& dst);

/// The scratch that a node needs; also makes room in `state`, which may be null.
std::size_t plan_multiply(PoolState* state, const ggml_tensor& dst, int n_threads);

void multiply(PoolState* state, const ggml_compute_params& params, ggml_tensor& dst);

}  // namespace llamaherd::kernels

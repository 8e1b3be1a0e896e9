#pragma once

struct ggml_compute_params;
struct ggml_tensor;

/// CPU kernels whose results for a token are bitwise independent of the other tokens of the batch,
/// the number of threads and the cells' indices. Slow: for tests and deterministic=True.
namespace llamaherd::kernels {

/// All return false, without changes, if the node is not supported.

/// Each output is one dot product of a weight row and an activation row.
bool reference_mul_mat(const ggml_compute_params& params, ggml_tensor& dst);
bool reference_mul_mat_id(const ggml_compute_params& params, ggml_tensor& dst);

/// Softmax attention with order-independent sums: the maximum first, then weights and weighted
/// values added as 64-bit integers. K and V of type F16 or F32.
bool reference_flash_attn(const ggml_compute_params& params, ggml_tensor& dst);

}  // namespace llamaherd::kernels

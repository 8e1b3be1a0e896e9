#pragma once

struct ggml_compute_params;
struct ggml_tensor;

/// CPU kernels whose results for one token do not depend, to the bit, on the other tokens of the
/// batch, on the number of threads, or on where in the cache its cells lie. Slow: for tests and for
/// who needs the same answer twice.
namespace llamaherd::kernels {

/// Each returns false, having done nothing, if it does not cover the node.

/// Every output value is one dot product of a weight row and an activation row.
bool reference_mul_mat(const ggml_compute_params& params, ggml_tensor& dst);
bool reference_mul_mat_id(const ggml_compute_params& params, ggml_tensor& dst);

/// Softmax attention with sums in which order cannot matter: the maximum first, then weights and
/// weighted values added as 64-bit integers. K and V of type F16 or F32.
bool reference_flash_attn(const ggml_compute_params& params, ggml_tensor& dst);

}  // namespace llamaherd::kernels

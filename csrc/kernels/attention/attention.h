#pragma once

struct ggml_compute_params;
struct ggml_tensor;

namespace llamaherd::kernels {

struct PoolState;

/// Softmax attention over the cells visible through the mask; K and V of type F16 or Q8_0.
///
/// A row's visible cells are divided into blocks of kBlockCells. Each block's result is computed
/// separately, and the results are merged in order (Milakov and Gimelshein 2018; Dao et al. 2022).
/// Rows that share a block read it together. Grouping of rows and division of work do not affect
/// results: a result depends only on the row's query, its visible cells and the order in which they
/// were written.

/// Allocates memory for a node, if attend() supports it, while its graph is planned.
void plan_attention(PoolState& state, const ggml_tensor& dst, int n_threads);

/// Returns false, without changes, if the node is not supported or memory could not be allocated.
bool attend(PoolState& state, const ggml_compute_params& params, ggml_tensor& dst);

}  // namespace llamaherd::kernels

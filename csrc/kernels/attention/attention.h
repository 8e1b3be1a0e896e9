#pragma once

struct ggml_compute_params;
struct ggml_tensor;

namespace llamaherd::kernels {

struct PoolState;

/// Softmax attention over the cells that a row's mask shows; K and V of F16 or Q8_0.
///
/// A row's visible cells are cut into blocks of kBlockCells, each block's result is computed by
/// itself, and they are merged in order (Milakov and Gimelshein 2018; Dao et al. 2022). Rows that
/// see the same block read it once, together. How rows are grouped and how the work is divided
/// decides nothing about a result: it depends on the row's query, its visible cells and the order
/// in which they were written alone.

/// Makes room for a node, if attend() covers it, while its graph is planned.
void plan_attention(PoolState& state, const ggml_tensor& dst, int n_threads);

/// False, having done nothing, if it does not cover the node or there was no room to be had.
bool attend(PoolState& state, const ggml_compute_params& params, ggml_tensor& dst);

}  // namespace llamaherd::kernels

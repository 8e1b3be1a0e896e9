#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/kernel_mode.h"

/// What is written once for every instruction set. Included by files that are compiled for CPUs
/// which the rest must not assume: plain data and declarations only, no inline function that the
/// linker could take for everybody's.
namespace llamaherd::kernels {

/// kBlockInputs activations of one row as integers: x = q * scale.
struct ActivationBlock {
  std::int8_t q[32];
  float scale;
  float sum;                     // of x, as quantised
  std::int32_t neg_sum;          // -sum of q
  std::int16_t neg_sum_half[2];  // of its halves
};

/// Some panels of one weight matrix times some rows.
struct MatmulTask {
  int type;                 // ggml_type of the weights
  const std::byte* panels;  // the first
  std::int64_t n_panels;
  std::int64_t n_in;
  std::int64_t first;  // output of the first panel
  std::int64_t n_out;  // of the matrix: its last panel may hold fewer than 16
  // [n_rows]: ActivationBlock[n_in / 32], or float[n_in] for float weights. For F16 and BF16, if
  // the kernels split rows, what split() makes of them, at equal distances.
  const void* const* x;
  float* const* out;  // [n_rows], each float[n_out]
  std::int64_t n_rows;
  std::byte* scratch = nullptr;  // of scratch_bytes(type), whole cache lines
};

/// Cells are attended to in blocks of this many, counted along each row's own visible cells: what a
/// row's result depends on must not depend on its neighbours.
inline constexpr int kBlockCells = 64;
inline constexpr int kMaxTileRows = 16;
inline constexpr int kMaxHeadSize = 512;

/// A block of cells and the rows of a tile that see it. Each row sees the first `count` of the
/// cells; all see the same ones, but the last block of a row may end early.
struct SharedBlock {
  std::uint32_t cells[kBlockCells];
  std::uint32_t index;  // of the block among those of its rows
  std::uint8_t n_cells;
  std::uint8_t n_rows;
  std::uint8_t row[kMaxTileRows];  // in the tile
  std::uint8_t count[kMaxTileRows];
};

/// Attention of the rows of one tile, for K/V heads that lie side by side. Strides are in bytes.
struct AttentionTile {
  const SharedBlock* blocks;
  const std::uint32_t* order;  // [n_blocks]: of `blocks`; each row's are ascending by index
  std::int64_t n_blocks;
  int n_rows;
  int n_heads;            // of K and V
  int n_group;            // query heads that share a K/V head, one after the other
  int k_size, v_size;     // of a head: multiples of 16
  bool k_is_q8, v_is_q8;  // Q8_0, of sizes that are multiples of 32; else F16
  const std::byte* k;     // of the first head, at cell 0
  const std::byte* v;
  std::int64_t k_stride, v_stride;  // from cell to cell
  std::int64_t k_head_stride, v_head_stride;
  const float* q;  // of the first row and query head, not yet scaled
  float* out;
  std::int64_t q_stride, q_head_stride;  // from row to row
  std::int64_t out_stride, out_head_stride;
  float scale, softcap;
  // ALiBi: scores get slope[query head] * mask[row][cell]; null where the mask only hides.
  const std::uint16_t* mask;
  std::int64_t mask_stride;
  const float* slope;  // [n_heads * n_group]
  const float* sinks;  // [n_heads * n_group] or null
  std::byte* scratch;  // see attention_scratch.h
  // If set, there is one head, and results of single blocks are left here,
  // [index][row * n_group + j][2 + v_size], for merge_blocks(); `out` is not written.
  float* partials;
};

/// Results of all blocks of one row and query head, in order: [n_blocks] at `stride` floats.
struct BlockResults {
  const float* partials;
  std::int64_t stride;
  std::int64_t n_blocks;
  int v_size;
  const float* sink;
  float* out;
};

struct KernelTable {
  const char* name;
  void (*quantize)(const float* x, std::int64_t n, ActivationBlock* out);
  /// Makes split_row_bytes(n) of a row; null: F16 and BF16 weights take rows as they are.
  void (*split)(const float* x, std::int64_t n, std::byte* out);
  void (*multiply)(const MatmulTask& product);
  /// The cells that a row of the mask shows, ascending; *biased is set if it shows any with a value
  /// other than 0. Returns their number; `cells` has room for n + 16.
  std::int64_t (*visible_cells)(const std::uint16_t* mask, std::int64_t n, std::uint32_t* cells,
                                bool* biased);
  void (*attend)(const AttentionTile& tile);
  void (*merge_blocks)(const BlockResults& results);
  /// Of Product::scratch; null: none.
  std::size_t (*scratch_bytes)(int type) = nullptr;
};

/// Null where the compiler has not what they need.
const KernelTable* amx_bf16_kernels();
const KernelTable* amx_int8_kernels();
const KernelTable* avx512_kernels();
const KernelTable* avx_vnni_kernels();
const KernelTable* avx2_kernels();

/// The best that this CPU can run; null: only ggml's own. The environment's LLAMAHERD_CPU_ISA,
/// amx_int8, avx512_vnni, avx_vnni or avx2, keeps from better ones; with amx_bf16 those of
/// kManyRows are the best for all calls.
const KernelTable* best_kernels(BatchProfile calls = BatchProfile::kFewRows);

}  // namespace llamaherd::kernels

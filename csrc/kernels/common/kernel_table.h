#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/kernel_mode.h"

/// Interface between generic code and code for one instruction set. Included by files that are
/// compiled for CPUs which other code must not assume: contains only plain data and declarations,
/// as the linker could pick an inline function compiled for the wrong CPU.
namespace llamaherd::kernels {

/// kBlockInputs activations of one row as integers: x = q * scale.
struct ActivationBlock {
  std::int8_t q[32];
  float scale;
  float sum;                     // of x after quantisation
  std::int32_t neg_sum;          // -sum of q
  std::int16_t neg_sum_half[2];  // per half
};

/// Multiplication of some panels of one weight matrix by some rows.
struct MatmulTask {
  int type;                 // ggml_type of the weights
  const std::byte* panels;  // first panel
  std::int64_t n_panels;
  std::int64_t n_in;
  std::int64_t first;  // first output of the first panel
  std::int64_t n_out;  // outputs of the matrix; its last panel may have fewer than 16
  // [n_rows]: ActivationBlock[n_in / 32], or float[n_in] for float weights. For F16 and BF16, if
  // the kernels split rows, the output of split(), at equal distances.
  const void* const* x;
  float* const* out;  // [n_rows], each float[n_out]
  std::int64_t n_rows;
  std::byte* scratch = nullptr;  // scratch_bytes(type), whole cache lines
};

/// Cells per attention block, counted along each row's own visible cells, so that a row's result
/// does not depend on other rows.
inline constexpr int kBlockCells = 64;
inline constexpr int kMaxTileRows = 16;
inline constexpr int kMaxHeadSize = 512;

/// A block of cells and the rows of a tile that see it. Each row sees the first `count` of the
/// cells; all see the same cells, but a row's last block may be shorter.
struct SharedBlock {
  std::uint32_t cells[kBlockCells];
  std::uint32_t index;  // of the block within its rows
  std::uint8_t n_cells;
  std::uint8_t n_rows;
  std::uint8_t row[kMaxTileRows];  // in the tile
  std::uint8_t count[kMaxTileRows];
};

/// Attention of the rows of one tile, for K/V heads that are adjacent in memory. Strides are in
/// bytes.
struct AttentionTile {
  const SharedBlock* blocks;
  const std::uint32_t* order;  // [n_blocks]: indices into `blocks`, ascending within each row
  std::int64_t n_blocks;
  int n_rows;
  int n_heads;            // of K and V
  int n_group;            // query heads per K/V head, consecutive
  int k_size, v_size;     // of a head: multiples of 16
  bool k_is_q8, v_is_q8;  // Q8_0, with sizes that are multiples of 32; else F16
  const std::byte* k;     // of the first head, at cell 0
  const std::byte* v;
  std::int64_t k_stride, v_stride;  // from cell to cell
  std::int64_t k_head_stride, v_head_stride;
  const float* q;  // of the first row and query head, unscaled
  float* out;
  std::int64_t q_stride, q_head_stride;  // from row to row
  std::int64_t out_stride, out_head_stride;
  float scale, softcap;
  // ALiBi: adds slope[query head] * mask[row][cell] to scores; null if the mask only hides cells.
  const std::uint16_t* mask;
  std::int64_t mask_stride;
  const float* slope;  // [n_heads * n_group]
  const float* sinks;  // [n_heads * n_group] or null
  std::byte* scratch;  // see attention_scratch.h
  // If set, there is one head, and results of single blocks are stored here, [index][row * n_group
  // + j][2 + v_size], for merge_blocks(); `out` is not written.
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
  /// Converts a row to split_row_bytes(n) bytes; null: F16 and BF16 weights use unconverted rows.
  void (*split)(const float* x, std::int64_t n, std::byte* out);
  void (*multiply)(const MatmulTask& product);
  /// Writes the cells visible to a row of the mask, in ascending order. Sets *biased if one has a
  /// value other than 0. Returns their number; `cells` must have room for n + 16.
  std::int64_t (*visible_cells)(const std::uint16_t* mask, std::int64_t n, std::uint32_t* cells,
                                bool* biased);
  void (*attend)(const AttentionTile& tile);
  void (*merge_blocks)(const BlockResults& results);
  /// Size of MatmulTask::scratch; null: none is used.
  std::size_t (*scratch_bytes)(int type) = nullptr;
};

/// Null if the compiler does not support the instruction set.
const KernelTable* amx_bf16_kernels();
const KernelTable* amx_int8_kernels();
const KernelTable* avx512_kernels();
const KernelTable* avx_vnni_kernels();
const KernelTable* avx2_kernels();

/// The fastest kernels for this CPU; null: only ggml's. The environment variable LLAMAHERD_CPU_ISA
/// (amx_int8, avx512_vnni, avx_vnni, avx2) excludes faster ones; amx_bf16 selects those of
/// kManyRows for all calls.
const KernelTable* best_kernels(BatchProfile calls = BatchProfile::kFewRows);

}  // namespace llamaherd::kernels

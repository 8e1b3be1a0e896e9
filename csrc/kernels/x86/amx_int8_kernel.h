#pragma once

#include <immintrin.h>

#include "kernels/common/kernel_table.h"
#include "kernels/matmul/matmul_kernel.h"
#include "kernels/matmul/panels.h"
#include "kernels/x86/amx_tiles.h"
#include "kernels/x86/simd_avx512.h"

/// Products of quantised weights with AMX tiles, which multiply bytes and accumulate integers. The
/// integers, and the order of further operations, are those of multiply_tile(): results are bitwise
/// equal.
///
/// A tile of weights has one block of one panel, a tile of activations the same inputs of kTileRows
/// rows; it is half empty, as each block has a scale of its own. With tiles in use, one of two
/// ports computes 64-byte vectors: processing a block's sums takes longer than its products.
namespace llamaherd::kernels {
namespace {

constexpr std::int64_t kTileRows = 16;
// Unpacked blocks that are kept during a pass over all rows: panels that fit into the L2 cache, and
// blocks of each whose activations fit into the L1 cache.
constexpr std::int64_t kByteKeptPanels = 8, kByteKeptBlocks = 24;

struct alignas(64) UnpackedBlock {
  std::int8_t q[kBlockInputs * kPanelOutputs];  // [8][16 outputs][4 inputs]
  float scale[kPanelOutputs], min[kPanelOutputs];
};

constexpr std::size_t kByteScratchBytes = kByteKeptPanels * kByteKeptBlocks * sizeof(UnpackedBlock);

/// The number of n rows, from the first, to multiply with tiles; vectors are faster for the rest.
inline std::int64_t rows_in_tiles(std::int64_t n) {
  // With fewer rows, unpacking the weights or using another tile does not pay off.
  constexpr std::int64_t kLeast = 48, kLeastOfATile = 9;
  if (n < kLeast) return 0;
  return n % kTileRows < kLeastOfATile ? n / kTileRows * kTileRows : n;
}

/// Scales of some rows' blocks, and sums of inputs if the type has minimums.
struct RowFactors {
  float scale[kByteKeptBlocks][kTileRows], sum[kByteKeptBlocks][kTileRows];
};

template <Layout L>
void unpack_block(const std::byte* panel, std::int64_t b, UnpackedBlock& out) {
  const PanelBlock<Avx512, L> block(panel, b);
  block.prefetch();
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(L.has_min ? 0 : 1 << (L.n_bits - 1)));
  const auto take = [&]<int kV>() {
    __m512i even, odd;
    block.template pair<kV>(even, odd);
    _mm512_store_si512(out.q + 128 * kV, _mm512_sub_epi8(even, offset));
    _mm512_store_si512(out.q + 128 * kV + 64, _mm512_sub_epi8(odd, offset));
  };
  take.template operator()<0>();
  take.template operator()<1>();
  take.template operator()<2>();
  take.template operator()<3>();
  _mm512_store_ps(out.scale, block.scale(0));
  if constexpr (L.has_min) _mm512_store_ps(out.min, block.min());
}

/// One panel times kTileRows rows, for successive blocks.
template <Layout L>
class TileSums {
 public:
  TileSums(const UnpackedBlock* blocks, const std::byte* x, std::int64_t x_stride,
           const RowFactors& factors)
      : blocks_(blocks), x_(x), x_stride_(x_stride), factors_(factors) {}

  /// Processes one block's sums while the next block is multiplied.
  void add(std::int64_t n, __m512 (&acc)[kTileRows]) {
    compute<0>(0);
    std::int64_t b = 0;
    for (; b + 1 < n; b += 2) {
      compute<1>(b + 1);
      use<0>(b, acc);
      if (b + 2 < n) compute<0>(b + 2);
      use<1>(b + 1, acc);
    }
    if (b < n) use<0>(b, acc);
  }

 private:
  template <int kWhich>
  void compute(std::int64_t b) {
    const std::byte* x = x_ + b * sizeof(ActivationBlock);
    if constexpr (kWhich == 0) {
      _tile_zero(0);
      _tile_loadd(4, x, x_stride_);
      _tile_loadd(6, blocks_[b].q, 64);
      _tile_dpbssd(0, 4, 6);
      _tile_stored(0, sums_[0], 64);
    } else {
      _tile_zero(1);
      _tile_loadd(5, x, x_stride_);
      _tile_loadd(7, blocks_[b].q, 64);
      _tile_dpbssd(1, 5, 7);
      _tile_stored(1, sums_[1], 64);
    }
  }

  template <int kWhich>
  void use(std::int64_t b, __m512 (&acc)[kTileRows]) const {
    finish_stores();
    const __m512 scale = _mm512_load_ps(blocks_[b].scale);
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r) {
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums_[kWhich][r]));
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(factors_.scale[b][r]));
      acc[r] = _mm512_fmadd_ps(sum, factor, acc[r]);
    }
    if constexpr (L.has_min) {
      const __m512 min = _mm512_load_ps(blocks_[b].min);
#pragma GCC unroll 16
      for (int r = 0; r < kTileRows; ++r) {
        acc[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(factors_.sum[b][r]), acc[r]);
      }
    }
  }

  const UnpackedBlock* blocks_;
  const std::byte* x_;
  const std::int64_t x_stride_;
  const RowFactors& factors_;
  alignas(64) std::int32_t sums_[2][kTileRows][16];
};

/// Product of at least kTileRows rows, whose activations are x_stride bytes apart.
template <Layout L>
class MultiplyBytes {
 public:
  MultiplyBytes(const MatmulTask& p, std::int64_t x_stride)
      : p_(p),
        x_stride_(x_stride),
        n_blocks_(p.n_in / kBlockInputs),
        kept_(reinterpret_cast<UnpackedBlock*>(p.scratch)) {}

  void run() const {
    TileConfig config;
    for (int i = 0; i < 2; ++i) {
      config.set(i, kTileRows, 64);                // sums
      config.set(4 + i, kTileRows, kBlockInputs);  // activations
      config.set(6 + i, kBlockInputs / 4, 64);     // weights
    }
    const TileScope scope(config);
    const std::int64_t n_parts = (n_blocks_ + kByteKeptBlocks - 1) / kByteKeptBlocks;
    for (std::int64_t panel = 0; panel < p_.n_panels; panel += kByteKeptPanels) {
      const std::int64_t left = p_.n_panels - panel;
      const std::int64_t last = panel + (left < kByteKeptPanels ? left : kByteKeptPanels);
      for (std::int64_t i = 0; i < n_parts; ++i) {
        multiply_part({panel, last, n_blocks_ * i / n_parts, n_blocks_ * (i + 1) / n_parts});
      }
    }
  }

 private:
  /// Panels and blocks that are completed for all rows before the next part.
  struct Part {
    std::int64_t panel, last_panel, block, last_block;
  };

  void multiply_part(const Part& part) const {
    unpack(part);
    for (std::int64_t begin = 0; begin < p_.n_rows; begin += kTileRows) {
      // The tile of the last rows is shifted to be full; rows already computed are not written
      // again.
      const std::int64_t last = p_.n_rows - kTileRows, first_row = begin < last ? begin : last;
      multiply_rows(part, first_row, static_cast<int>(begin - first_row));
    }
  }

  void unpack(const Part& part) const {
    const std::int64_t bytes = n_blocks_ / L.n_blocks * L.group();
    UnpackedBlock* to = kept_;
    for (std::int64_t panel = part.panel; panel < part.last_panel; ++panel) {
      for (std::int64_t b = part.block; b < part.last_block; ++b) {
        unpack_block<L>(p_.panels + panel * bytes, b, *to++);
      }
    }
    finish_stores();
  }

  /// Multiplies rows [first_row, first_row + kTileRows), of which the first `n_done` are already
  /// computed.
  void multiply_rows(const Part& part, std::int64_t first_row, int n_done) const {
    const std::int64_t n = part.last_block - part.block;
    RowFactors factors;
    for (std::int64_t b = 0; b < n; ++b) {
      for (std::int64_t r = 0; r < kTileRows; ++r) {
        const auto* blocks = static_cast<const ActivationBlock*>(p_.x[first_row + r]);
        factors.scale[b][r] = blocks[part.block + b].scale;
        if constexpr (L.has_min) factors.sum[b][r] = blocks[part.block + b].sum;
      }
    }
    const std::byte* x =
        static_cast<const std::byte*>(p_.x[first_row]) + part.block * sizeof(ActivationBlock);
    for (std::int64_t panel = part.panel; panel < part.last_panel; ++panel) {
      TileSums<L> sums(kept_ + (panel - part.panel) * n, x, x_stride_, factors);
      const std::int64_t first = p_.first + panel * kPanelOutputs, left = p_.n_out - first;
      const auto mask = static_cast<__mmask16>(left < kPanelOutputs ? (1 << left) - 1 : 0xffff);
      float* const* out = p_.out + first_row;
      __m512 acc[kTileRows];
#pragma GCC unroll 16
      for (int r = 0; r < kTileRows; ++r) {
        acc[r] =
            part.block == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, out[r] + first);
      }
      sums.add(n, acc);
#pragma GCC unroll 16
      for (int r = 0; r < kTileRows; ++r) {
        if (r >= n_done) _mm512_mask_storeu_ps(out[r] + first, mask, acc[r]);
      }
    }
  }

  const MatmulTask& p_;
  const std::int64_t x_stride_, n_blocks_;
  UnpackedBlock* const kept_;
};

}  // namespace
}  // namespace llamaherd::kernels

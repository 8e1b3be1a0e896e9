#pragma once

#include <immintrin.h>

#include "ggml.h"
#include "kernels/common/kernel_table.h"
#include "kernels/matmul/bf16_split.h"
#include "kernels/matmul/panels.h"
#include "kernels/x86/amx_tiles.h"

/// Products of F16 and BF16 weights with AMX tiles, which multiply BF16 and accumulate float. A
/// number is the sum of two BF16 halves, hi + lo: exact for weights, to 16 bits for activations. A
/// product is lo * hi + hi * hi + hi * lo, activations first; BF16 weights have no lo.
///
/// A tile of weights has 32 inputs of a panel; row i contains inputs i and i + 16 of all 16
/// outputs. A tile of activations has the same inputs of up to 16 rows, in the same order
/// (bf16_split.h). Each output is one chain of sums over such steps of 32 inputs, regardless of the
/// number of rows.
namespace llamaherd::kernels {
namespace {

inline constexpr std::int64_t kTileBytes = 1024;
// Rows of activations, in two tiles, that are multiplied by two panels' weights at a time.
inline constexpr std::int64_t kGroupRows = 32;
// Prefetch distances in steps of weights, into the L2 and the L1 cache.
inline constexpr std::int64_t kStepsFarAhead = 12, kStepsAhead = 4;

struct Halves {
  __m512i hi, lo;
};

inline __m512i high_half(__m512i bits) {
  return _mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
}

/// Rounds to nearest, into the upper half; truncates if that would overflow or x is not finite.
inline __m512i round_to_high_half(__m512i bits) {
  const __m512i size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 fits = _mm512_cmplt_epi32_mask(size, _mm512_set1_epi32(0x7f7f8000));
  return high_half(_mm512_mask_add_epi32(bits, fits, bits, _mm512_set1_epi32(0x8000)));
}

/// Upper halves of each pair of lanes.
inline __m512i pairs(__m512i even, __m512i odd) {
  constexpr int kOr = 0xf8;  // a | (b & c)
  return _mm512_ternarylogic_epi32(_mm512_srli_epi32(even, 16), odd,
                                   _mm512_set1_epi32(static_cast<int>(0xffff0000)), kOr);
}

inline Halves split_activations(__m512 x) {
  constexpr int kNotFinite = 0x99;
  const __m512i hi = round_to_high_half(_mm512_castps_si512(x));
  const __mmask16 finite = _knot_mask16(_mm512_fpclass_ps_mask(x, kNotFinite));
  const __m512 rest = _mm512_maskz_sub_ps(finite, x, _mm512_castsi512_ps(hi));
  return {hi, _mm512_add_epi32(_mm512_castps_si512(rest), _mm512_set1_epi32(0x8000))};
}

/// Converts rows of activations to the tiles' format.
inline void split(const float* x, std::int64_t n, std::byte* out) {
  for (std::int64_t i = 0; i < n; i += kBlockInputs, out += 2 * 64) {
    const auto load = [&](std::int64_t first) {
      const std::int64_t left = n - first;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff
                                               : left > 0 ? (1 << left) - 1
                                                          : 0);
      return split_activations(_mm512_maskz_loadu_ps(mask, x + first));
    };
    const Halves even = load(i), odd = load(i + 16);
    _mm512_storeu_si512(out, pairs(even.hi, odd.hi));
    _mm512_storeu_si512(out + 64, pairs(even.lo, odd.lo));
  }
}

template <ggml_type kType>
inline constexpr std::int64_t kTilesPerStep = kType == GGML_TYPE_F16 ? 2 : 1;

/// Unpacks a step's weights of one panel into a tile of hi, and one of lo if the type has it.
template <ggml_type kType>
void unpack_step(const std::byte* weights, std::byte* tiles) {
  for (int i = 0; i < 16; ++i) {
    const auto half = [&](int input) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32 * input));
    };
    if constexpr (kType == GGML_TYPE_BF16) {
      const __m512i even = _mm512_cvtepu16_epi32(half(i));
      const __m512i odd = _mm512_slli_epi32(_mm512_cvtepu16_epi32(half(i + 16)), 16);
      _mm512_store_si512(tiles + 64 * i, _mm512_or_si512(even, odd));
    } else {
      const __m512 even = _mm512_cvtph_ps(half(i)), odd = _mm512_cvtph_ps(half(i + 16));
      const __m512i even_hi = high_half(_mm512_castps_si512(even));
      const __m512i odd_hi = high_half(_mm512_castps_si512(odd));
      const __m512 even_lo = _mm512_sub_ps(even, _mm512_castsi512_ps(even_hi));
      const __m512 odd_lo = _mm512_sub_ps(odd, _mm512_castsi512_ps(odd_hi));
      _mm512_store_si512(tiles + 64 * i, pairs(even_hi, odd_hi));
      _mm512_store_si512(tiles + kTileBytes + 64 * i,
                         pairs(_mm512_castps_si512(even_lo), _mm512_castps_si512(odd_lo)));
    }
  }
}

/// Rows of a group in tiles 4 and 5, of which the second may be empty. Tiles 0 and 1 accumulate the
/// sums of the first panel, 2 and 3 of the second; 6 and 7 contain the panels' weights.
struct TileShape {
  int rows[2];

  TileConfig config() const {
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.set(i, i < 6 ? rows[i % 2] : 16, 64);
    return config;
  }
};

/// Location of a group's sums: per panel, rows at equal distances.
struct SumsAt {
  float* panel[2];
  std::int64_t stride;  // in bytes
  float* second(int i, const TileShape& shape) const {
    return panel[i] + shape.rows[0] * (stride / 4);
  }
};

template <int kPanels, bool kTwo>
void zero_sums() {
  _tile_zero(0);
  if constexpr (kTwo) _tile_zero(1);
  if constexpr (kPanels == 2) _tile_zero(2);
  if constexpr (kPanels == 2 && kTwo) _tile_zero(3);
}

template <int kPanels, bool kTwo>
void load_sums(const SumsAt& at, const TileShape& shape) {
  finish_stores();
  _tile_loadd(0, at.panel[0], at.stride);
  if constexpr (kTwo) _tile_loadd(1, at.second(0, shape), at.stride);
  if constexpr (kPanels == 2) _tile_loadd(2, at.panel[1], at.stride);
  if constexpr (kPanels == 2 && kTwo) _tile_loadd(3, at.second(1, shape), at.stride);
}

template <int kPanels, bool kTwo>
void store_sums(const SumsAt& at, const TileShape& shape) {
  _tile_stored(0, at.panel[0], at.stride);
  if constexpr (kTwo) _tile_stored(1, at.second(0, shape), at.stride);
  if constexpr (kPanels == 2) _tile_stored(2, at.panel[1], at.stride);
  if constexpr (kPanels == 2 && kTwo) _tile_stored(3, at.second(1, shape), at.stride);
}

/// Results of a group that tiles cannot load and store in place.
template <int kPanels>
struct Outputs {
  float* const* rows;
  std::int64_t first;
  __mmask16 last;  // mask of the outputs of the last panel

  __mmask16 mask(int panel) const { return panel + 1 < kPanels ? 0xffff : last; }

  void read(std::int64_t n_rows, float (&copy)[2][kGroupRows][16]) const {
    for (std::int64_t r = 0; r < n_rows; ++r) {
      for (int p = 0; p < kPanels; ++p) {
        const float* from = rows[r] + first + p * kPanelOutputs;
        _mm512_store_ps(copy[p][r], _mm512_maskz_loadu_ps(mask(p), from));
      }
    }
  }

  void write(std::int64_t row, std::int64_t n_rows, const float (&copy)[2][kGroupRows][16]) const {
    for (std::int64_t r = row; r < n_rows; ++r) {
      for (int p = 0; p < kPanels; ++p) {
        float* to = rows[r] + first + p * kPanelOutputs;
        _mm512_mask_storeu_ps(to, mask(p), _mm512_load_ps(copy[p][r]));
      }
    }
  }
};

template <int kPanels, bool kTwo>
void multiply_loaded() {
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kTwo) _tile_dpbf16ps(1, 5, 6);
  if constexpr (kPanels == 2) _tile_dpbf16ps(2, 4, 7);
  if constexpr (kPanels == 2 && kTwo) _tile_dpbf16ps(3, 5, 7);
}

template <bool kTwo>
void load_rows(const std::byte* x, std::int64_t stride, const TileShape& shape) {
  _tile_loadd(4, x, stride);
  if constexpr (kTwo) _tile_loadd(5, x + shape.rows[0] * stride, stride);
}

/// x and tiles belong to one step.
template <ggml_type kType, int kPanels, bool kTwo>
void multiply_step(const std::byte* x, std::int64_t stride, const TileShape& shape,
                   const std::byte* tiles) {
  constexpr std::int64_t kPanelTiles = kTilesPerStep<kType> * kTileBytes;
  _tile_loadd(6, tiles, 64);
  if constexpr (kPanels == 2) _tile_loadd(7, tiles + kPanelTiles, 64);
  load_rows<kTwo>(x + 64, stride, shape);
  multiply_loaded<kPanels, kTwo>();
  load_rows<kTwo>(x, stride, shape);
  multiply_loaded<kPanels, kTwo>();
  if constexpr (kType == GGML_TYPE_F16) {
    _tile_loadd(6, tiles + kTileBytes, 64);
    if constexpr (kPanels == 2) _tile_loadd(7, tiles + kPanelTiles + kTileBytes, 64);
    multiply_loaded<kPanels, kTwo>();
  }
}

/// Groups of rows of equal size, as large as possible.
inline TileShape shape_of(std::int64_t n_rows) {
  const std::int64_t n_groups = (n_rows + kGroupRows - 1) / kGroupRows;
  const auto n = static_cast<int>((n_rows + n_groups - 1) / n_groups);
  const int first = n > 16 ? (n + 1) / 2 : n;
  return {{first, n - first}};
}

/// A product, by blocks of steps. The unpacked weights of a few pairs of panels stay in the L2
/// cache during a pass over all groups of rows.
template <ggml_type kType>
class MultiplySplit {
 public:
  explicit MultiplySplit(const MatmulTask& p)
      : p_(p),
        shape_(shape_of(p.n_rows)),
        n_group_(shape_.rows[0] + shape_.rows[1]),
        n_steps_((p.n_in + kBlockInputs - 1) / kBlockInputs),
        keeps_(p.n_rows > n_group_),
        x_stride_(p.n_rows > 1 ? row(1) - row(0) : 64),
        out_stride_(stride_of(p.out, p.n_rows)) {}

  void run() const {
    const TileScope scope(shape_.config());
    const std::int64_t n_at_once = keeps_ ? kKeptPanels : 2;
    const std::int64_t n_blocks = keeps_ ? (n_steps_ + kKeptSteps - 1) / kKeptSteps : 1;
    for (std::int64_t panel = 0; panel < p_.n_panels; panel += n_at_once) {
      const std::int64_t left = p_.n_panels - panel;
      for (std::int64_t b = 0; b < n_blocks; ++b) {
        const Part part{panel, panel + (left < n_at_once ? left : n_at_once),
                        n_steps_ * b / n_blocks, n_steps_ * (b + 1) / n_blocks};
        for (std::int64_t row = 0; row < p_.n_rows; row += n_group_) multiply_rows(part, row);
      }
    }
  }

 private:
  /// Panels and steps that are completed for all rows before the next part.
  struct Part {
    std::int64_t panel, last_panel, step, last_step;
  };

  static constexpr std::int64_t kStepBytes = 2 * kTilesPerStep<kType> * kTileBytes;

  const std::byte* row(std::int64_t i) const { return static_cast<const std::byte*>(p_.x[i]); }

  void multiply_rows(const Part& part, std::int64_t row) const {
    for (std::int64_t panel = part.panel; panel < part.last_panel; panel += 2) {
      if (panel + 1 < part.last_panel) {
        multiply_pair<2>(part, panel, row);
      } else {
        multiply_pair<1>(part, panel, row);
      }
    }
  }

  template <int kPanels>
  void multiply_pair(const Part& part, std::int64_t panel, std::int64_t row) const {
    if (shape_.rows[1] > 0) {
      multiply_group<kPanels, true>(part, panel, row);
    } else {
      multiply_group<kPanels, false>(part, panel, row);
    }
  }

  /// Multiplies one or two panels by one group of rows. The last group is shifted to be complete;
  /// rows already computed are not written again.
  template <int kPanels, bool kTwo>
  void multiply_group(const Part& part, std::int64_t panel, std::int64_t begin) const {
    const std::int64_t row = begin < p_.n_rows - n_group_ ? begin : p_.n_rows - n_group_;
    const std::int64_t first = p_.first + panel * kPanelOutputs;
    const std::int64_t n_last = p_.n_out - first - (kPanels - 1) * kPanelOutputs;
    const Outputs<kPanels> outputs{
        p_.out + row, first, static_cast<__mmask16>(n_last < 16 ? (1 << n_last) - 1 : 0xffff)};
    alignas(64) float copy[2][kGroupRows][16];
    const bool in_place = begin == row && n_last >= 16 && out_stride_ > 0;
    float* out = p_.out[row] + first;
    const SumsAt sums = in_place ? SumsAt{{out, out + kPanelOutputs}, out_stride_}
                                 : SumsAt{{copy[0][0], copy[1][0]}, 64};
    if (part.step == 0) {
      zero_sums<kPanels, kTwo>();
    } else {
      if (!in_place) outputs.read(n_group_, copy);
      load_sums<kPanels, kTwo>(sums, shape_);
    }
    multiply_steps<kPanels, kTwo>(part, panel, row, begin == 0);
    store_sums<kPanels, kTwo>(sums, shape_);
    if (!in_place) outputs.write(begin - row, n_group_, copy);
  }

  template <int kPanels, bool kTwo>
  void multiply_steps(const Part& part, std::int64_t panel, std::int64_t first_row,
                      bool unpacks) const {
    const std::byte* x = row(first_row);
    std::byte* kept = p_.scratch + (panel - part.panel) / 2 * kKeptSteps * kStepBytes;
    const auto tiles_of = [&](std::int64_t step) {
      return kept + (keeps_ ? step - part.step : step % 2) * kStepBytes;
    };
    if (unpacks) unpack<kPanels>(panel, part.step, tiles_of(part.step));
    for (std::int64_t step = part.step; step < part.last_step; ++step) {
      // Unpacks one step ahead, to overlap unpacking and multiplication.
      if (unpacks && step + 1 < part.last_step)
        unpack<kPanels>(panel, step + 1, tiles_of(step + 1));
      finish_stores();
      multiply_step<kType, kPanels, kTwo>(x + step * 128, x_stride_, shape_, tiles_of(step));
    }
  }

  template <int kPanels>
  void unpack(std::int64_t panel, std::int64_t step, std::byte* tiles) const {
    const std::int64_t first = step * kBlockInputs, left = p_.n_in - first;
    for (int i = 0; i < kPanels; ++i) {
      const std::byte* weights = p_.panels + ((panel + i) * p_.n_in + first) * 32;
      std::byte* to = tiles + i * kTilesPerStep<kType> * kTileBytes;
      if (left >= kBlockInputs) {
        prefetch<kPanels, _MM_HINT_T1>(weights, step, kStepsFarAhead);
        prefetch<kPanels, _MM_HINT_T0>(weights, step, kStepsAhead);
        unpack_step<kType>(weights, to);
      } else {
        alignas(64) std::byte padded[kTileBytes] = {};
        __builtin_memcpy(padded, weights, static_cast<std::size_t>(32 * left));
        unpack_step<kType>(padded, to);
      }
    }
  }

  /// Prefetches the weights `ahead` steps later; after the panel's end, those of the next pair.
  template <int kPanels, _mm_hint kHint>
  void prefetch(const std::byte* weights, std::int64_t step, std::int64_t ahead) const {
    const std::int64_t skipped = step + ahead < n_steps_ ? 0 : (kPanels - 1) * p_.n_in * 32;
    const auto* at = reinterpret_cast<const char*>(weights + ahead * kTileBytes + skipped);
    for (int line = 0; line < kTileBytes; line += 64) _mm_prefetch(at + line, kHint);
  }

  const MatmulTask& p_;
  const TileShape shape_;
  const std::int64_t n_group_, n_steps_;
  const bool keeps_;  // whether unpacked weights are kept for the next group
  const std::int64_t x_stride_, out_stride_;
};

}  // namespace
}  // namespace llamaherd::kernels

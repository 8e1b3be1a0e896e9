#pragma once

#include <immintrin.h>

#include "ggml.h"
#include "kernels/common/kernel_table.h"
#include "kernels/common/unrolled.h"
#include "kernels/matmul/panels.h"

namespace llamaherd::kernels {
namespace {

// Prefetch distance in bytes of weights, within a panel and into the next one.
constexpr std::size_t kAhead = 4096;

template <class S>
void quantize(const float* x, std::int64_t n, ActivationBlock* out) {
  for (std::int64_t b = 0; b < n / kBlockInputs; ++b) {
    ActivationBlock& block = out[b];
    std::int32_t sums[2];
    S::quantize(x + b * kBlockInputs, block.q, &block.scale, sums);
    block.neg_sum = -sums[0] - sums[1];
    block.neg_sum_half[0] = static_cast<std::int16_t>(-sums[0]);
    block.neg_sum_half[1] = static_cast<std::int16_t>(-sums[1]);
    block.sum = block.scale * static_cast<float>(sums[0] + sums[1]);
  }
}

/// A block of a panel; packed values are unpacked while reading.
template <class S, Layout L>
class PanelBlock {
 public:
  using F = typename S::F;
  using I = typename S::I;

  PanelBlock(const std::byte* panel, std::int64_t b)
      : group_(panel + b / L.n_blocks * L.group()),
        block_(group_ + L.header() + b % L.n_blocks * L.block()) {}

  void prefetch() const {
    for (std::size_t line = 0; line < L.block(); line += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(block_ + kAhead + line), _MM_HINT_T1);
    }
  }

  F scale(int i) const {
    if constexpr (!L.is_k()) return S::load_f16(block_ + L.scales());
    const std::byte* factors = block_ + L.scales() + 16 * i;
    const F factor = L.n_scales == 2 ? S::load_i8(factors) : S::load_u8(factors);
    return S::mul(S::load_f16(group_), factor);
  }

  F min() const {
    if constexpr (!L.is_k()) return S::load_f16(block_ + L.minimums());
    const F dmin = S::sub(S::zero(), S::load_f16(group_ + 32));
    return S::mul(dmin, S::load_u8(block_ + L.minimums()));
  }

  /// q of inputs 8v .. 8v+3 and 8v+4 .. 8v+7.
  template <int kV>
  void pair(I& even, I& odd) const {
    if constexpr (L.n_bits == 8) {
      even = S::load_bytes(block_ + 128 * kV);
      odd = S::load_bytes(block_ + 128 * kV + 64);
      return;
    }
    const I nibbles = S::load_bytes(block_ + 64 * kV);
    even = S::low_nibbles(nibbles);
    odd = S::high_nibbles(nibbles);
    constexpr int kMore = L.n_bits - 4;
    if constexpr (kMore == 1 || kMore == 2) {
      const I plane = S::load_bytes(block_ + L.planes() + 64 * (kMore * 2 * kV / 8));
      even = S::template add_bits<kMore * 2 * kV % 8, kMore>(even, plane);
      odd = S::template add_bits<kMore*(2 * kV + 1) % 8, kMore>(odd, plane);
    }
  }

 private:
  const std::byte* group_;
  const std::byte* block_;
};

/// One panel times kRows rows. The summands of a row and their order do not depend on kRows.
template <class S, Layout L, int kRows>
void multiply_tile(const std::byte* panel, std::int64_t n_blocks, const void* const* x,
                   float* const* out, std::int64_t first, int n_valid) {
  using F = typename S::F;
  using I = typename S::I;
  constexpr bool kCentered = L.has_min || (L.n_bits == 8 && S::kCenters8);
  const ActivationBlock* rows[kRows];
  F acc[kRows];
  unrolled<kRows>([&](auto r) LLAMAHERD_INLINED {
    rows[r] = static_cast<const ActivationBlock*>(x[r]);
    acc[r] = S::zero();
  });
  for (std::int64_t b = 0; b < n_blocks; ++b) {
    const PanelBlock<S, L> block(panel, b);
    block.prefetch();
    typename S::template Sum<L.n_bits> sums[kRows];
    const auto start = [&](int half) LLAMAHERD_INLINED {
      unrolled<kRows>([&](auto r) LLAMAHERD_INLINED {
        const std::int32_t neg =
            L.n_scales == 2 ? rows[r][b].neg_sum_half[half] : rows[r][b].neg_sum;
        sums[r].start(kCentered ? S::zero_i() : S::shift_left(S::set1_i(neg), L.n_bits - 1));
      });
    };
    const auto take = [&]<int kV>() LLAMAHERD_INLINED {
      I even, odd;
      block.template pair<kV>(even, odd);
      unrolled<kRows>([&](auto r) LLAMAHERD_INLINED {
        const std::int8_t* q = rows[r][b].q + 8 * kV;
        sums[r].template add<2 * kV>(even, q);
        sums[r].template add<2 * kV + 1>(odd, q + 4);
      });
    };
    const auto finish = [&](int half) LLAMAHERD_INLINED {
      const F scale = block.scale(half);
      unrolled<kRows>([&](auto r) LLAMAHERD_INLINED {
        acc[r] =
            S::fma(S::to_float(sums[r].total()), S::mul(scale, S::set1(rows[r][b].scale)), acc[r]);
      });
    };
    start(0);
    take.template operator()<0>();
    take.template operator()<1>();
    if constexpr (L.n_scales == 2) {
      finish(0);
      start(1);
    }
    take.template operator()<2>();
    take.template operator()<3>();
    finish(L.n_scales - 1);
    if constexpr (L.has_min) {
      const F min = block.min();
      unrolled<kRows>(
          [&](auto r) LLAMAHERD_INLINED { acc[r] = S::fma(min, S::set1(rows[r][b].sum), acc[r]); });
    }
  }
  unrolled<kRows>([&](auto r) LLAMAHERD_INLINED {
    if (n_valid == kPanelOutputs) {
      S::store(out[r] + first, acc[r]);
    } else {
      S::store_first(out[r] + first, acc[r], n_valid);
    }
  });
}

template <class S, Layout L, int kRows = S::kRows>
void multiply_tiles(const std::byte* panel, const MatmulTask& p, std::int64_t first, int n_valid,
                    std::int64_t row = 0) {
  for (; row + kRows <= p.n_rows; row += kRows) {
    multiply_tile<S, L, kRows>(panel, p.n_in / kBlockInputs, p.x + row, p.out + row, first,
                               n_valid);
  }
  if constexpr (kRows > 1) {
    if (row < p.n_rows) multiply_tiles<S, L, kRows - 1>(panel, p, first, n_valid, row);
  }
}

template <class S, Layout L>
void multiply_quantized(const MatmulTask& p) {
  const std::size_t bytes = p.n_in / kBlockInputs / L.n_blocks * L.group();
  for (std::int64_t i = 0; i < p.n_panels; ++i) {
    const std::int64_t first = p.first + i * kPanelOutputs;
    const int n_valid =
        static_cast<int>(p.n_out - first < kPanelOutputs ? p.n_out - first : kPanelOutputs);
    multiply_tiles<S, L>(p.panels + i * bytes, p, first, n_valid);
  }
}

template <ggml_type kType>
constexpr std::int64_t kBytesOf = kType == GGML_TYPE_F32 ? 4 : 2;

template <class S, ggml_type kType>
typename S::F load_weights(const std::byte* at) {
  if constexpr (kType == GGML_TYPE_F32) return S::load(reinterpret_cast<const float*>(at));
  if constexpr (kType == GGML_TYPE_F16) return S::load_f16(at);
  return S::load_bf16(at);
}

/// kPanels panels of F32, F16 or BF16 times kRows rows; each output is one chain of sums.
template <class S, ggml_type kType, int kPanels, int kRows>
void multiply_float_tile(const std::byte* panel, std::int64_t n_in, const void* const* x,
                         float* const* out, std::int64_t first, int n_valid) {
  using F = typename S::F;
  constexpr std::int64_t kBytes = 16 * kBytesOf<kType>;
  F acc[kPanels][kRows];
  for (int p = 0; p < kPanels; ++p) {
    for (int r = 0; r < kRows; ++r) acc[p][r] = S::zero();
  }
  for (std::int64_t i = 0; i < n_in; ++i) {
    F weights[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      weights[p] = load_weights<S, kType>(panel + (p * n_in + i) * kBytes);
    }
    for (int r = 0; r < kRows; ++r) {
      const F value = S::set1(static_cast<const float*>(x[r])[i]);
      for (int p = 0; p < kPanels; ++p) acc[p][r] = S::fma(weights[p], value, acc[p][r]);
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    for (int r = 0; r < kRows; ++r) {
      float* to = out[r] + first + p * kPanelOutputs;
      if (p + 1 < kPanels || n_valid == kPanelOutputs) {
        S::store(to, acc[p][r]);
      } else {
        S::store_first(to, acc[p][r], n_valid);
      }
    }
  }
}

template <class S, ggml_type kType, int kPanels, int kRows>
void multiply_float_tiles(const std::byte* panel, const MatmulTask& p, std::int64_t first,
                          int n_valid, std::int64_t row = 0) {
  for (; row + kRows <= p.n_rows; row += kRows) {
    multiply_float_tile<S, kType, kPanels, kRows>(panel, p.n_in, p.x + row, p.out + row, first,
                                                  n_valid);
  }
  if constexpr (kRows > 1) {
    if (row < p.n_rows) {
      multiply_float_tiles<S, kType, kPanels, kRows - 1>(panel, p, first, n_valid, row);
    }
  }
}

template <class S, ggml_type kType>
void multiply_float(const MatmulTask& p) {
  const std::int64_t bytes = p.n_in * 16 * kBytesOf<kType>;
  // With few rows, registers are free for more panels, which hides the latency of additions.
  constexpr int kFew = S::kFloatRows / 4, kMore = S::kFloatRows * S::kFloatPanels / 2;
  const std::int64_t n_wide = p.n_rows <= kFew ? 4 : p.n_rows <= kMore ? 2 : S::kFloatPanels;
  for (std::int64_t i = 0; i < p.n_panels;) {
    const std::int64_t n = p.n_panels - i >= n_wide ? n_wide : 1;
    const std::int64_t first = p.first + i * kPanelOutputs;
    const std::int64_t last = first + (n - 1) * kPanelOutputs;
    const int n_valid =
        static_cast<int>(p.n_out - last < kPanelOutputs ? p.n_out - last : kPanelOutputs);
    const std::byte* panel = p.panels + i * bytes;
    if (n == 4) {
      multiply_float_tiles<S, kType, 4, kFew>(panel, p, first, n_valid);
    } else if (n == 2) {
      multiply_float_tiles<S, kType, 2, kMore>(panel, p, first, n_valid);
    } else {
      multiply_float_tiles<S, kType, 1, S::kFloatRows>(panel, p, first, n_valid);
    }
    i += n;
  }
}

/// Calls f.template operator()<L>() with the layout of a quantised type; returns false for other
/// types.
template <class F>
bool with_layout(int type, const F& f) {
  switch (type) {
    case GGML_TYPE_Q4_0:
      return f.template operator()<kLayoutQ4_0>(), true;
    case GGML_TYPE_Q4_1:
      return f.template operator()<kLayoutQ4_1>(), true;
    case GGML_TYPE_Q5_0:
      return f.template operator()<kLayoutQ5_0>(), true;
    case GGML_TYPE_Q5_1:
      return f.template operator()<kLayoutQ5_1>(), true;
    case GGML_TYPE_Q8_0:
      return f.template operator()<kLayoutQ8_0>(), true;
    case GGML_TYPE_Q4_K:
      return f.template operator()<kLayoutQ4_K>(), true;
    case GGML_TYPE_Q5_K:
      return f.template operator()<kLayoutQ5_K>(), true;
    case GGML_TYPE_Q6_K:
      return f.template operator()<kLayoutQ6_K>(), true;
    default:
      return false;
  }
}

template <class S>
void multiply(const MatmulTask& p) {
  if (with_layout(p.type, [&]<Layout L>() { multiply_quantized<S, L>(p); })) return;
  switch (p.type) {
    case GGML_TYPE_F32:
      return multiply_float<S, GGML_TYPE_F32>(p);
    case GGML_TYPE_F16:
      return multiply_float<S, GGML_TYPE_F16>(p);
    default:
      return multiply_float<S, GGML_TYPE_BF16>(p);
  }
}

}  // namespace
}  // namespace llamaherd::kernels

#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace llamaherd::kernels {
namespace {

/// Sixteen lanes in two registers. Needs AVX2, FMA and F16C.
struct Avx2 {
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };

  static constexpr int kRows = 4;
  static constexpr int kFloatPanels = 1, kFloatRows = 6;
  static constexpr int kQueries = 6, kVectors = 1;
  static constexpr bool kCenters8 = true;

  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static void store_first(float* p, F x, int n) {
    float lanes[16];
    store(lanes, x);
    for (int i = 0; i < n; ++i) p[i] = lanes[i];
  }
  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static float sum(F x) {
    const __m256 y = _mm256_add_ps(x.a, x.b);
    __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
  }
  static float max(F x) {
    const __m256 y = _mm256_max_ps(x.a, x.b);
    __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_max_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
  }
  static F load_f16(const void* p) {
    const auto* halves = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
  }
  static F load_bf16(const void* p) {
    const auto* halves = static_cast<const __m128i*>(p);
    const auto widen = [](__m128i x) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
    };
    return {widen(_mm_loadu_si128(halves)), widen(_mm_loadu_si128(halves + 1))};
  }
  static F load_u8(const void* p) {
    const __m128i x = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(x, 8)))};
  }
  static F load_i8(const void* p) {
    const __m128i x = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
  }
  /// A block of Q8_0, an f16 scale and 32 bytes.
  static void q8_to_f16(const std::byte* block, std::uint16_t* out) {
    std::uint16_t half;
    __builtin_memcpy(&half, block, 2);
    const F scale = set1(_cvtsh_ss(half));
    for (int i = 0; i < 32; i += 16) {
      const F values = mul(load_i8(block + 2 + i), scale);
      const auto put = [](std::uint16_t* to, __m256 x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                         _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
      };
      put(out + i, values.a);
      put(out + i + 8, values.b);
    }
  }
  static F first(F x, F other, int n) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const auto keep = [&](__m256 value, __m256 rest, int n_left) {
      const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n_left), lane);
      return _mm256_blendv_ps(rest, value, _mm256_castsi256_ps(mask));
    };
    return {keep(x.a, other.a, n), keep(x.b, other.b, n - 8)};
  }
  static F copy_sign(F size, F sign) {
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return {_mm256_or_ps(size.a, _mm256_and_ps(sign.a, bit)),
            _mm256_or_ps(size.b, _mm256_and_ps(sign.b, bit))};
  }
  /// Valid for n in -126 .. 127; callers replace other results by zero_below().
  static F scale_by_power(F x, F n) {
    const auto power = [](__m256 e) {
      const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(e), _mm256_set1_epi32(127));
      return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    };
    return {_mm256_mul_ps(x.a, power(n.a)), _mm256_mul_ps(x.b, power(n.b))};
  }
  static F round(F x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
  }
  static F zero_below(F x, F of, float least) {
    const __m256 bound = _mm256_set1_ps(least);
    return {_mm256_andnot_ps(_mm256_cmp_ps(of.a, bound, _CMP_LT_OQ), x.a),
            _mm256_andnot_ps(_mm256_cmp_ps(of.b, bound, _CMP_LT_OQ), x.b)};
  }

  static I zero_i() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static I set1_i(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I load_bytes(const void* p) {
    const auto* bytes = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(bytes), _mm256_loadu_si256(bytes + 1)};
  }
  static void store_bytes(void* p, I x) {
    auto* bytes = static_cast<__m256i*>(p);
    _mm256_storeu_si256(bytes, x.a);
    _mm256_storeu_si256(bytes + 1, x.b);
  }
  static I low_nibbles(I x) {
    const __m256i mask = _mm256_set1_epi8(0x0f);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
  }
  static I high_nibbles(I x) {
    return low_nibbles({_mm256_srli_epi32(x.a, 4), _mm256_srli_epi32(x.b, 4)});
  }
  template <int kAt, int kBits>
  static I add_bits(I q, I plane) {
    const __m256i mask = _mm256_set1_epi8(kBits == 1 ? 0x10 : 0x30);
    const auto add = [&](__m256i low, __m256i bits) {
      const __m256i shifted = kAt <= 4 ? _mm256_slli_epi32(bits, kAt <= 4 ? 4 - kAt : 0)
                                       : _mm256_srli_epi32(bits, kAt > 4 ? kAt - 4 : 0);
      return _mm256_or_si256(low, _mm256_and_si256(shifted, mask));
    };
    return {add(q.a, plane.a), add(q.b, plane.b)};
  }
  static F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static I shift_left(I x, int n) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
  static __m256i broadcast(const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
  }
  /// Adds products in 16 bits, as many as fit, and those sums in 32 bits.
  template <int kBits>
  class Sum {
   public:
    void start(I from) { sum_ = from; }
    template <int kFour>
    void add(I q, const std::int8_t* x) {
      const __m256i four = broadcast(x);
      take<kFour>(sum_.a, pairs_.a, q.a, four);
      take<kFour>(sum_.b, pairs_.b, q.b, four);
    }
    I total() const { return sum_; }

   private:
    // Each 16-bit sum has two products, and x is at least -127. With 8 bits |q - 128| is used,
    // which is at most 128.
    static constexpr int kMost = kBits == 8 ? 1 : 32767 / (((1 << kBits) - 1) * 127 * 2);

    template <int kFour>
    static void take(__m256i& sum, __m256i& pairs, __m256i q, __m256i x) {
      if constexpr (kBits == 8) {
        const __m256i centered = _mm256_xor_si256(q, _mm256_set1_epi8(-128));
        q = _mm256_abs_epi8(centered);
        x = _mm256_sign_epi8(x, centered);
      }
      const __m256i products = _mm256_maddubs_epi16(q, x);
      pairs = kFour % kMost == 0 ? products : _mm256_add_epi16(pairs, products);
      if constexpr (kFour % kMost == kMost - 1) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      } else {
        // Without this GCC adds all products in a tree, which spills registers.
        asm("" : "+x"(pairs));
      }
    }

    I sum_, pairs_;
  };

  static void transpose(const std::byte* const* cells, std::int64_t offset, std::uint16_t* out) {
    for (int half = 0; half < 2; ++half) {
      __m128i x[8], y[8];
      for (int i = 0; i < 8; ++i) {
        x[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(cells[8 * half + i] + offset));
      }
      for (int i = 0; i < 4; ++i) {
        y[2 * i] = _mm_unpacklo_epi16(x[2 * i], x[2 * i + 1]);
        y[2 * i + 1] = _mm_unpackhi_epi16(x[2 * i], x[2 * i + 1]);
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
          x[4 * i + 2 * j] = _mm_unpacklo_epi32(y[4 * i + j], y[4 * i + 2 + j]);
          x[4 * i + 2 * j + 1] = _mm_unpackhi_epi32(y[4 * i + j], y[4 * i + 2 + j]);
        }
      }
      for (int j = 0; j < 4; ++j) {
        y[2 * j] = _mm_unpacklo_epi64(x[j], x[4 + j]);
        y[2 * j + 1] = _mm_unpackhi_epi64(x[j], x[4 + j]);
      }
      for (int d = 0; d < 8; ++d) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * d + 8 * half), y[d]);
      }
    }
  }

  static void quantize(const float* x, std::int8_t* q, float* scale, std::int32_t sums[2]) {
    const __m256i sign = _mm256_set1_epi32(0x7fffffff);
    __m256i most = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      const __m256i bits = _mm256_castps_si256(_mm256_loadu_ps(x + 8 * i));
      most = _mm256_max_epu32(most, _mm256_and_si256(bits, sign));
    }
    std::uint32_t lanes[8], bits = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), most);
    for (const std::uint32_t lane : lanes) bits = lane > bits ? lane : bits;
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const bool tiny = largest < 1e-36f;
    *scale = tiny ? 0.0f : largest * (1 / 127.0f);
    const __m256 inverse = _mm256_set1_ps(tiny ? 0.0f : 127.0f / largest);
    __m256i whole[4];
    for (int i = 0; i < 4; ++i) {
      const __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse);
      whole[i] = _mm256_max_epi32(_mm256_cvtps_epi32(scaled), _mm256_set1_epi32(-127));
    }
    // Packing interleaves groups of four within 128-bit lanes.
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                              _mm256_packs_epi32(whole[2], whole[3]));
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    const __m256i bytes = _mm256_permutevar8x32_epi32(packed, order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
    const __m256i fours =
        _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
    __m128i both =
        _mm_hadd_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    both = _mm_hadd_epi32(both, both);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(sums), both);
  }

  static int visible(const std::uint16_t* mask, std::uint32_t first, unsigned valid,
                     std::uint32_t* cells, bool* biased) {
    int n = 0;
    if (valid == 0xffff) {
      const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask));
      const __m256i hidden = _mm256_cmpeq_epi16(all, _mm256_set1_epi16(short(0xfc00)));
      if (_mm256_movemask_epi8(hidden) == -1) return 0;
    }
    for (int i = 0; i < 16; ++i) {
      if ((valid >> i & 1) == 0 || mask[i] == 0xfc00) continue;
      if ((mask[i] & 0x7fff) != 0) *biased = true;
      cells[n++] = first + static_cast<std::uint32_t>(i);
    }
    return n;
  }
};

}  // namespace
}  // namespace llamaherd::kernels

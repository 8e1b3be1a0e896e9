#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/x86/dot_accumulator.h"

namespace llamaherd::kernels {
namespace {

/// Sixteen lanes in one register. Needs AVX-512 F, BW, DQ, VL and VNNI.
struct Avx512 {
  using F = __m512;
  using I = __m512i;

  // Register tiling: rows of activations; panels of float weights and rows; attention queries, and
  // vectors of cells or of dimensions.
  static constexpr int kRows = 8;
  static constexpr int kFloatPanels = 2, kFloatRows = 8;
  static constexpr int kQueries = 6, kVectors = 4;
  // 8-bit q is used as stored; the caller corrects for the offset of 128.
  static constexpr bool kCenters8 = false;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store_first(float* p, F x, int n) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), x);
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static float sum(F x) { return _mm512_reduce_add_ps(x); }
  static float max(F x) { return _mm512_reduce_max_ps(x); }
  static F load_f16(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static F load_bf16(const void* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static F load_u8(const void* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static F load_i8(const void* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }

  /// A block of Q8_0, an f16 scale and 32 bytes.
  static void q8_to_f16(const std::byte* block, std::uint16_t* out) {
    std::uint16_t half;
    __builtin_memcpy(&half, block, 2);
    const __m512 scale = set1(_cvtsh_ss(half));
    for (int i = 0; i < 32; i += 16) {
      const __m256i halves = _mm512_cvtps_ph(mul(load_i8(block + 2 + i), scale),
                                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), halves);
    }
  }

  /// x in lanes below n, `other` in the rest.
  static F first(F x, F other, int n) {
    const auto mask = static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1);
    return _mm512_mask_blend_ps(mask, other, x);
  }
  static F copy_sign(F size, F sign) {
    return _mm512_or_ps(size, _mm512_and_ps(sign, set1(-0.0f)));
  }
  /// 2^n for n whole, times x.
  static F scale_by_power(F x, F n) { return _mm512_scalef_ps(x, n); }
  static F round(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  /// x, or 0 where `of` is below `least`.
  static F zero_below(F x, F of, float least) {
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(of, set1(least), _CMP_LT_OQ), zero());
  }

  static I zero_i() { return _mm512_setzero_si512(); }
  static I set1_i(std::int32_t x) { return _mm512_set1_epi32(x); }
  static I load_bytes(const void* p) { return _mm512_loadu_si512(p); }
  static void store_bytes(void* p, I x) { _mm512_storeu_si512(p, x); }
  static I low_nibbles(I x) { return _mm512_and_si512(x, _mm512_set1_epi8(0x0f)); }
  static I high_nibbles(I x) {
    return _mm512_and_si512(_mm512_srli_epi32(x, 4), _mm512_set1_epi8(0x0f));
  }
  /// Inserts kBits bits of `plane`, from bit kAt on, into q at bit 4.
  template <int kAt, int kBits>
  static I add_bits(I q, I plane) {
    const I mask = _mm512_set1_epi8(kBits == 1 ? 0x10 : 0x30);
    const I shifted = kAt <= 4 ? _mm512_slli_epi32(plane, kAt <= 4 ? 4 - kAt : 0)
                               : _mm512_srli_epi32(plane, kAt > 4 ? kAt - 4 : 0);
    return _mm512_ternarylogic_epi32(q, shifted, mask, 0xf8);  // q | (shifted & mask)
  }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static I shift_left(I x, int n) { return _mm512_slli_epi32(x, static_cast<unsigned>(n)); }
  static I dot(I sum, I q, const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(sum, q, _mm512_set1_epi32(four));
  }
  /// Accumulates products of q with kBits bits.
  template <int kBits>
  using Sum = DirectSum<Avx512>;

  /// Eight halves, from byte `offset` on, of each of 16 cells: out[8][16].
  static void transpose(const std::byte* const* cells, std::int64_t offset, std::uint16_t* out) {
    __m512i a[4];
    for (int i = 0; i < 4; ++i) {
      const auto at = [&](int cell) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(cells[cell] + offset));
      };
      __m512i x = _mm512_castsi128_si512(at(i));
      x = _mm512_mask_broadcast_i32x4(x, 0x00f0, at(i + 4));
      x = _mm512_mask_broadcast_i32x4(x, 0x0f00, at(i + 8));
      a[i] = _mm512_mask_broadcast_i32x4(x, 0xf000, at(i + 12));
    }
    const __m512i u0 = _mm512_unpacklo_epi16(a[0], a[1]), u1 = _mm512_unpackhi_epi16(a[0], a[1]);
    const __m512i w0 = _mm512_unpacklo_epi16(a[2], a[3]), w1 = _mm512_unpackhi_epi16(a[2], a[3]);
    const __m512i pairs[4] = {_mm512_unpacklo_epi32(u0, w0), _mm512_unpackhi_epi32(u0, w0),
                              _mm512_unpacklo_epi32(u1, w1), _mm512_unpackhi_epi32(u1, w1)};
    const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    for (int j = 0; j < 4; ++j) {
      _mm512_storeu_si512(out + 32 * j, _mm512_permutexvar_epi64(order, pairs[j]));
    }
  }

  static void quantize(const float* x, std::int8_t* q, float* scale, std::int32_t sums[2]) {
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    // Compared as integers, NaN is the largest and is preserved.
    const __m512i sign = _mm512_set1_epi32(0x7fffffff);
    const __m512i most = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), sign),
                                          _mm512_and_si512(_mm512_castps_si512(b), sign));
    const auto bits = static_cast<std::int32_t>(_mm512_reduce_max_epu32(most));
    float largest;
    __builtin_memcpy(&largest, &bits, 4);
    const bool tiny = largest < 1e-36f;  // 127 / largest would overflow
    *scale = tiny ? 0.0f : largest * (1 / 127.0f);
    const __m512 inverse = _mm512_set1_ps(tiny ? 0.0f : 127.0f / largest);
    const __m512i least = _mm512_set1_epi32(-127);  // non-finite values convert to less
    const __m512i qa = _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), least);
    const __m512i qb = _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(b, inverse)), least);
    const __m256i bytes = _mm256_set_m128i(_mm512_cvtepi32_epi8(qb), _mm512_cvtepi32_epi8(qa));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
    const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
    __m128i both =
        _mm_hadd_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    both = _mm_hadd_epi32(both, both);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(sums), both);
  }

  static int visible(const std::uint16_t* mask, std::uint32_t first, unsigned valid,
                     std::uint32_t* cells, bool* biased) {
    const __m512i bits =
        _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(valid), mask));
    const auto shown =
        static_cast<__mmask16>(_mm512_cmpneq_epi32_mask(bits, _mm512_set1_epi32(0xfc00)) & valid);
    if (_mm512_mask_test_epi32_mask(shown, bits, _mm512_set1_epi32(0x7fff)) != 0) *biased = true;
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(first)));
    _mm512_storeu_si512(cells, _mm512_maskz_compress_epi32(shown, index));
    return __builtin_popcount(shown);
  }
};

}  // namespace
}  // namespace llamaherd::kernels

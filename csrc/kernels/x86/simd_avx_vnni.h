#pragma once

#include "kernels/x86/dot_accumulator.h"
#include "kernels/x86/simd_avx2.h"

namespace llamaherd::kernels {
namespace {

/// AVX2 with AVX-VNNI's dot product instruction.
struct AvxVnni : Avx2 {
  static constexpr bool kCenters8 = false;

  static I dot(I sum, I q, const std::int8_t* x) {
    const __m256i four = broadcast(x);
    return {_mm256_dpbusd_avx_epi32(sum.a, q.a, four), _mm256_dpbusd_avx_epi32(sum.b, q.b, four)};
  }
  template <int kBits>
  using Sum = DirectSum<AvxVnni>;
};

}  // namespace
}  // namespace llamaherd::kernels

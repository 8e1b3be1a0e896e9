#pragma once

#include "simd_avx2.h"

namespace llamaherd::kernels {
namespace {

/// AVX2 with one instruction for four products.
struct AvxVnni : Avx2 {
  static constexpr bool kCenters8 = false;

  template <int kBits>
  class Sum {
   public:
    void start(I from) { sum_ = from; }
    template <int kFour>
    void add(I q, const std::int8_t* x) {
      const __m256i four = broadcast(x);
      sum_ = {_mm256_dpbusd_avx_epi32(sum_.a, q.a, four),
              _mm256_dpbusd_avx_epi32(sum_.b, q.b, four)};
    }
    I total() const { return sum_; }

   private:
    I sum_;
  };
};

}  // namespace
}  // namespace llamaherd::kernels

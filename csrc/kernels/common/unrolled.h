#pragma once

#include <utility>

/// For lambdas that work on arrays of registers: if GCC inlines one late, its captures are stored
/// to memory each time.
#define LLAMAHERD_INLINED __attribute__((always_inline))

namespace llamaherd::kernels {
namespace {

/// Calls f(0) .. f(kN - 1) with constants known before register allocation.
template <int kN, class F>
[[gnu::always_inline]] inline void unrolled(const F& f) {
  [&]<int... kI>(std::integer_sequence<int, kI...>) LLAMAHERD_INLINED {
    (f(std::integral_constant<int, kI>()), ...);
  }
  (std::make_integer_sequence<int, kN>());
}

}  // namespace
}  // namespace llamaherd::kernels

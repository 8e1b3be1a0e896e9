#pragma once

#include <cstdint>

namespace llamaherd::kernels {
namespace {

/// A sum of products per lane, for instruction sets that accumulate in 32 bits directly.
template <class S>
class DirectSum {
 public:
  void start(typename S::I from) { sum_ = from; }
  /// Adds to each lane the products of its four unsigned bytes of q and the four signed bytes at x,
  /// group kFour of the block.
  template <int kFour>
  void add(typename S::I q, const std::int8_t* x) {
    sum_ = S::dot(sum_, q, x);
  }
  typename S::I total() const { return sum_; }

 private:
  typename S::I sum_;
};

}  // namespace
}  // namespace llamaherd::kernels

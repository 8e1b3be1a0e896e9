#pragma once

#include <cstdint>

namespace llamaherd::kernels {
namespace {

/// In each lane a sum of products, for instruction sets that add them in 32 bits at once.
template <class S>
class DirectSum {
 public:
  void start(typename S::I from) { sum_ = from; }
  /// Adds to each lane the products of its four unsigned bytes of q and the four signed at x, the
  /// kFour-th fours of a block.
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

#pragma once

#include <cstdint>

#include "ggml.h"

namespace llamaherd::kernels {

/// Row of a tensor with these indices.
template <typename T>
const T* at(const ggml_tensor& t, std::int64_t i1, std::int64_t i2 = 0, std::int64_t i3 = 0) {
  return reinterpret_cast<const T*>(static_cast<const char*>(t.data) + i1 * t.nb[1] + i2 * t.nb[2] +
                                    i3 * t.nb[3]);
}

template <typename T>
T* at(ggml_tensor& t, std::int64_t i1, std::int64_t i2 = 0, std::int64_t i3 = 0) {
  return const_cast<T*>(at<T>(static_cast<const ggml_tensor&>(t), i1, i2, i3));
}

}  // namespace llamaherd::kernels

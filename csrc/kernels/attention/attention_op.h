#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ggml.h"

namespace llamaherd::kernels {

/// A FLASH_ATTN_EXT node.
struct AttentionOp {
  const ggml_tensor *q, *k, *v, *mask, *sinks;
  float scale, max_bias, softcap;

  explicit AttentionOp(const ggml_tensor& dst)
      : q(dst.src[0]), k(dst.src[1]), v(dst.src[2]), mask(dst.src[3]), sinks(dst.src[4]) {
    std::memcpy(&scale, dst.op_params + 0, sizeof scale);
    std::memcpy(&max_bias, dst.op_params + 1, sizeof max_bias);
    std::memcpy(&softcap, dst.op_params + 2, sizeof softcap);
  }

  /// ALiBi (Press et al., ICLR 2022): the mask's factor for query head `h`.
  float slope(std::int64_t h) const {
    if (max_bias <= 0) return 1.0f;
    const auto n_head = static_cast<float>(q->ne[2]);
    const float n_head_log2 = std::exp2(std::floor(std::log2(n_head)));
    const auto head = static_cast<float>(h);
    return head < n_head_log2
               ? std::pow(std::exp2(-max_bias / n_head_log2), head + 1)
               : std::pow(std::exp2(-max_bias / 2 / n_head_log2), 2 * (head - n_head_log2) + 1);
  }
};

}  // namespace llamaherd::kernels

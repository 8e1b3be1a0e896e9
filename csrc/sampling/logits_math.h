#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Vector code over one row of logits. Results do not depend on the CPU's vector width.

inline constexpr std::size_t kLogitsBlock = 64;

/// One pass over a row. `block_max` gets the maximum of every kLogitsBlock logits (the last block
/// may be short).
struct RowScan {
  float max = 0;
  TokenId argmax = 0;   // the lowest id among equals
  bool finite = false;  // no NaN, no +inf, and not all -inf
};
RowScan scan_row(std::span<const float> logits, std::vector<float>& block_max);

/// Sums of exp((logit - max) * scale) for every kLogitsBlock logits; returns the total. The
/// exponential's relative error is below 1e-6 down to exp(-10) and below 4e-6 down to exp(-87);
/// below that it is 0. `scale` must be finite and >= 0.
double exp_sums(std::span<const float> logits, float max, float scale,
                std::vector<float>& block_sums);

/// Number of tokens with a larger logit than `token`, or an equal one and a lower id.
std::int32_t count_better(std::span<const float> logits, TokenId token);

/// exp((logit - max) * scale) with the same rounding as exp_sums.
float exp_weight(float logit, float max, float scale);

}  // namespace llamaherd

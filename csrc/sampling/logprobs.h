#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "common/types.h"
#include "sampling/top_k.h"

namespace llamaherd {

/// The log-probability of `token` by the whole softmax of a row of logits, and the n_top likeliest
/// tokens; nullopt if the row has a NaN, +inf or nothing but -inf.
std::optional<TokenLogprob> logprob_of(TokenId token, std::span<const float> logits,
                                       std::int32_t n_top, RowScratch& scratch);

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "common/types.h"
#include "sampling/top_k.h"

namespace llamaherd {

/// The log-probability of `token` by the softmax over the whole row, and the n_top most likely
/// tokens; nullopt if the row has a NaN or +inf, or is all -inf.
std::optional<TokenLogprob> logprob_of(TokenId token, std::span<const float> logits,
                                       std::int32_t n_top, RowScratch& scratch);

}  // namespace llamaherd

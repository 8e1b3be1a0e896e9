#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Prompt lookup (n-gram speculation; Saxena, 2023). Finds the latest earlier occurrence of the
/// text's last n tokens, with the longest n >= kLeastNgram, and sets `out` to at most n_most tokens
/// that follow it; empty if there is none.
void propose_ngram(std::span<const TokenId> tokens, std::size_t n_most, std::vector<TokenId>& out);

inline constexpr std::size_t kLeastNgram = 2, kMostNgram = 5;

}  // namespace llamaherd

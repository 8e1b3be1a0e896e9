#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Guesses what comes next in a text that repeats itself (prompt lookup; Saxena, 2023): `out`
/// becomes the tokens behind the latest place, at most n_most, where the text's last tokens stood
/// before, as many of them as possible, at least kLeastNgram; nothing if there is no such place.
void propose_ngram(std::span<const TokenId> tokens, std::size_t n_most, std::vector<TokenId>& out);

inline constexpr std::size_t kLeastNgram = 2, kMostNgram = 5;

}  // namespace llamaherd

#pragma once

#include <vector>

#include "common/vocabulary.h"
#include "sampling/top_k.h"

namespace llamaherd {

/// llama.cpp's sampler "infill" on the candidates of a row, whose weights must be set: ends a text
/// when the model is unsure how to go on. In this order:
/// 1. If end-of-generation tokens are likely enough for the number of candidates, keeps only them.
/// 2. Merges each token with those of which it is a prefix, into the likeliest of them.
/// 3. Removes other tokens of less than a fifth of the mass, then those below the mean.
/// Leaves the candidates empty if no token but end-of-generation tokens would be left.
void keep_sure(std::vector<TokenLogit>& candidates, const Vocabulary& table);

}  // namespace llamaherd

#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/types.h"

namespace llamaherd {

struct TokenLogit {
  TokenId token;
  float logit;
  float weight;  // exp(logit - max); unnormalised probability at temperature 1
};

/// Buffers for work on rows of logits. One per thread; no state passes through it.
struct RowScratch {
  std::vector<float> block_max;  // of scan_row()
  std::vector<float> block_sums;
  std::vector<float> thresholds;
  std::vector<TokenLogit> candidates;
  std::vector<float> raw;  // a row as it was before it was changed
};

/// A total order, so that what is kept never depends on the algorithm.
inline bool better(const TokenLogit& a, const TokenLogit& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/// s.candidates becomes all tokens with a logit >= threshold, in id order. s.block_max must be of
/// this row.
void collect(std::span<const float> logits, float threshold, RowScratch& s);

/// s.candidates becomes the k best, or all if there are fewer, in no order. Likewise.
void collect_top_k(std::span<const float> logits, std::size_t k, RowScratch& s);

}  // namespace llamaherd

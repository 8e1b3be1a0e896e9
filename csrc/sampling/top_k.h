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

/// Buffers for work on rows of logits. One per thread; they carry no state between calls.
struct RowScratch {
  std::vector<float> block_max;  // of scan_row()
  std::vector<float> block_sums;
  std::vector<float> thresholds;
  std::vector<TokenLogit> candidates;
  std::vector<float> raw;  // copy of a row before it is changed
};

/// A total order, so that results do not depend on the algorithm.
inline bool better(const TokenLogit& a, const TokenLogit& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/// Sets s.candidates to all tokens with a logit >= threshold, in id order. s.block_max must be of
/// this row.
void collect(std::span<const float> logits, float threshold, RowScratch& s);

/// Sets s.candidates to the k best tokens, or all if there are fewer, unordered. s.block_max must
/// be of this row.
void collect_top_k(std::span<const float> logits, std::size_t k, RowScratch& s);

}  // namespace llamaherd

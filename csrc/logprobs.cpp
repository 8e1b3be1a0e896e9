#include "logprobs.h"

#include <algorithm>
#include <cmath>

#include "logits_math.h"

namespace llamaherd {

Logprobs::Logprobs(std::span<const float> logits, RowScratch& scratch)
    : logits_(logits), scratch_(scratch) {
  const RowScan scan = scan_row(logits, scratch.block_max);
  finite_ = scan.finite;
  if (!finite_) return;
  log_sum_ = scan.max + std::log(exp_sums(logits, scan.max, 1.0f, scratch.block_sums));
}

TokenLogprob Logprobs::of(TokenId token, std::int32_t n_top) {
  TokenLogprob result;
  result.token = token;
  result.logprob = logprob(logits_[token]);
  result.rank = 1 + count_better(logits_, token);
  if (n_top == 0) return result;
  collect_top_k(logits_, n_top, scratch_);
  std::ranges::sort(scratch_.candidates, better);
  result.top.reserve(scratch_.candidates.size());
  for (const TokenLogit& c : scratch_.candidates) {
    result.top.emplace_back(c.token, logprob(c.logit));
  }
  return result;
}

}  // namespace llamaherd

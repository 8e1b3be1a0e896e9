#include "sampling/logprobs.h"

#include <algorithm>
#include <cmath>

#include "sampling/logits_math.h"

namespace llamaherd {

std::optional<TokenLogprob> logprob_of(TokenId token, std::span<const float> logits,
                                       std::int32_t n_top, RowScratch& scratch) {
  const RowScan scan = scan_row(logits, scratch.block_max);
  if (!scan.finite) return std::nullopt;
  const double log_sum = scan.max + std::log(exp_sums(logits, scan.max, 1.0f, scratch.block_sums));
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };
  TokenLogprob result;
  result.token = token;
  result.logprob = logprob(logits[token]);
  result.rank = 1 + count_better(logits, token);
  if (n_top == 0) return result;
  collect_top_k(logits, n_top, scratch);
  std::ranges::sort(scratch.candidates, better);
  result.top.reserve(scratch.candidates.size());
  for (const TokenLogit& c : scratch.candidates) result.top.emplace_back(c.token, logprob(c.logit));
  return result;
}

}  // namespace llamaherd

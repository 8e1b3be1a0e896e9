#pragma once

#include <cstdint>
#include <span>

#include "top_tokens.h"
#include "types.h"

namespace llamaherd {

/// Log-probabilities of one row of logits, by the whole softmax.
class Logprobs {
 public:
  /// Finds out at once whether the row is finite(): no NaN, no +inf, and not all -inf. It must be,
  /// and the logits must stay as they are, for the rest.
  Logprobs(std::span<const float> logits, RowScratch& scratch);

  bool finite() const { return finite_; }

  /// That of `token`, and of the n_top likeliest ones.
  TokenLogprob of(TokenId token, std::int32_t n_top);

 private:
  float logprob(float logit) const { return static_cast<float>(logit - log_sum_); }

  std::span<const float> logits_;
  RowScratch& scratch_;
  bool finite_;
  double log_sum_ = 0;
};

}  // namespace llamaherd

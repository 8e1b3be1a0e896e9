#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/shared_value.h"
#include "common/types.h"
#include "common/vocabulary.h"
#include "config/params.h"
#include "sampling/top_k.h"

namespace llamaherd {

/// Samples the tokens of one request. The steps have llama.cpp's order: penalties and biases,
/// top_k, typical_p, top_p, min_p, temperature, infill.
///
/// The random numbers of output token i depend on (seed, i) only, so a token sampled again after a
/// failed step is the same, and a request's output does not depend on its batch.
class Sampler {
 public:
  /// `params` must be valid; with infill, `table` must outlive the sampler. `n_max` bounds the
  /// calls of accept().
  Sampler(SharedValue<SamplingParams> params, std::uint64_t seed, const Vocabulary& table,
          std::span<const TokenId> prompt, std::int32_t n_max);

  /// The next token, or nullopt if the row has a NaN or +inf, or is all -inf. Overwrites parts of
  /// `logits`. Changes no state. `n_ahead`: output tokens sampled but not yet passed to accept();
  /// only without penalties.
  std::optional<TokenId> sample(std::span<float> logits, RowScratch& scratch,
                                std::int32_t n_ahead = 0) const;

  /// The two steps of sample().
  void edit(std::span<float> logits, std::int32_t n_ahead = 0) const;
  std::optional<TokenId> choose(std::span<const float> logits, RowScratch& scratch,
                                std::int32_t n_ahead = 0) const;

  bool has_penalties() const { return has_penalties_; }

  /// Whether edit() may change a row.
  bool edits() const;

  /// Records the token as output.
  void accept(TokenId token) noexcept;

 private:
  struct Seen {
    TokenId token;
    std::int32_t n_output;
  };

  TokenId draw_sure(std::span<const float> logits, double uniform, RowScratch& scratch) const;
  TokenId draw_from_all(std::span<const float> logits, float max, double uniform,
                        RowScratch& scratch) const;

  SharedValue<SamplingParams> params_;
  std::uint64_t seed_;
  const Vocabulary* table_;
  bool has_penalties_;
  std::int32_t n_accepted_ = 0;
  std::vector<Seen> seen_;  // distinct tokens of prompt and output, if penalties are on
  std::vector<TokenId> banned_always_;
  std::vector<TokenId> banned_early_;  // until min_tokens are generated
};

}  // namespace llamaherd

#include "sampling/constrained_sampling.h"

#include <algorithm>
#include <cmath>

namespace llamaherd {
namespace {

bool is_poisoned(std::span<const float> logits) {
  return std::ranges::any_of(logits, [](float x) { return std::isnan(x) || x == HUGE_VALF; });
}

}  // namespace

SampledOutput sample_constrained(const Sampler& sampler, const Constraint& constraint,
                                 std::span<float> logits, RowScratch& scratch) {
  SampledOutput sampled;
  sampled.error = constraint.error();
  if (!sampled.error.empty()) return sampled;
  sampler.edit(logits);
  const std::optional<TokenId> forced = constraint.forced_token();
  if (forced && std::isfinite(logits[*forced])) {
    sampled.token = forced;
    return sampled;
  }
  constraint.mask_logits(logits);
  sampled.token = sampler.choose(logits, scratch);
  if (sampled.token) return sampled;
  sampled.poisoned = is_poisoned(logits);
  if (sampled.poisoned) return sampled;
  sampled.error = "the grammar reached a dead end: no allowed token can be sampled";
  return sampled;
}

}  // namespace llamaherd

#include "sampling/constrained_sampling.h"

#include <algorithm>
#include <cmath>

namespace llamaherd {
namespace {

bool is_poisoned(std::span<const float> logits) {
  return std::ranges::any_of(logits, [](float x) { return std::isnan(x) || x == HUGE_VALF; });
}

}  // namespace

Staged sample_constrained(const Sampler& sampler, const Constraint& constraint,
                          std::span<float> logits, RowScratch& scratch) {
  Staged staged;
  staged.error = constraint.error();
  if (!staged.error.empty()) return staged;
  sampler.edit(logits);
  const std::optional<TokenId> forced = constraint.only();
  if (forced && std::isfinite(logits[*forced])) {
    staged.token = forced;
    return staged;
  }
  constraint.restrict(logits);
  staged.token = sampler.choose(logits, scratch);
  if (staged.token) return staged;
  staged.poisoned = is_poisoned(logits);
  if (staged.poisoned) return staged;
  staged.error = "the grammar has no way on: no token is allowed that the sampler may choose";
  return staged;
}

}  // namespace llamaherd

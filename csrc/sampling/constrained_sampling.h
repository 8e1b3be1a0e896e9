#pragma once

#include <span>

#include "sampling/sampled_output.h"
#include "sampling/sampler.h"
#include "sampling/token_constraint.h"
#include "sampling/top_k.h"

namespace llamaherd {

/// Samples the next token among those that `constraint`, which must be ready, allows. Sets token,
/// poisoned or error of the result. Overwrites parts of `logits`.
SampledOutput sample_constrained(const Sampler& sampler, const Constraint& constraint,
                                 std::span<float> logits, RowScratch& scratch);

}  // namespace llamaherd

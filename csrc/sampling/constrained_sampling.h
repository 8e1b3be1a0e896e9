#pragma once

#include <span>

#include "sampling/sampled_output.h"
#include "sampling/sampler.h"
#include "sampling/token_constraint.h"
#include "sampling/top_k.h"

namespace llamaherd {

/// The next token among those that `constraint`, which must be ready, allows. Sets the result's
/// token, poisoned or error. Overwrites parts of `logits`.
SampledOutput sample_constrained(const Sampler& sampler, const Constraint& constraint,
                                 std::span<float> logits, RowScratch& scratch);

}  // namespace llamaherd

#pragma once

#include <span>

#include "constraint.h"
#include "sampler.h"
#include "staged.h"
#include "top_tokens.h"

namespace llamaherd {

/// The next token among those that `constraint`, which must be ready, allows. Sets the result's
/// token, poisoned or error. Overwrites parts of `logits`.
Staged sample_constrained(const Sampler& sampler, const Constraint& constraint,
                          std::span<float> logits, RowScratch& scratch);

}  // namespace llamaherd

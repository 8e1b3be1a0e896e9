#pragma once

#include "common/types.h"
#include "cost/cost_estimates.h"

namespace llamaherd {

/// A request and a leader that is prefilling a prefix they share, up to n_common. All counts are
/// tokens.
struct PrefillLead {
  Pos n_have = 0;    // that the request can share or restore without waiting
  Pos n_common = 0;  // common prefix with the leader
  Pos n_leader = 0;  // computed by the leader so far
  Pos n_ahead = 0;   // prefill queued before the request, including the leader's
};

/// Whether the request is predicted to get its first token sooner by waiting for the leader than by
/// computing the prefix itself after the prefill ahead of it. Waiting costs one additional step.
bool should_wait_for_prefill(const PrefillLead& lead, const CostEstimates& costs);

}  // namespace llamaherd

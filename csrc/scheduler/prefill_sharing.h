#pragma once

#include "common/types.h"
#include "cost/cost_estimates.h"

namespace llamaherd {

/// A request that could have the tokens up to n_common computed by another, which is prefilling
/// them now. All counts are tokens.
struct PrefillLead {
  Pos n_have = 0;    // what the request can share or restore without waiting
  Pos n_common = 0;  // what it will have in common with the leader
  Pos n_leader = 0;  // what the leader has computed so far
  Pos n_ahead = 0;   // prefill that is in line before the request, the leader's included
};

/// Whether waiting for the leader is predicted to give the request its first token sooner than
/// computing on its own, behind what is in line before it. Waiting costs a step more.
bool should_wait_for_prefill(const PrefillLead& lead, const CostEstimates& costs);

}  // namespace llamaherd

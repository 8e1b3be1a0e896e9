#include "scheduler/prefill_sharing.h"

namespace llamaherd {

bool should_wait_for_prefill(const PrefillLead& lead, const CostEstimates& costs) {
  if (lead.n_common <= lead.n_have) return false;
  const double wait_ns = (lead.n_common - lead.n_leader) * costs.prefill_token_ns + costs.step_ns;
  const double compute_ns = (lead.n_ahead + (lead.n_common - lead.n_have)) * costs.prefill_token_ns;
  return wait_ns < compute_ns;
}

}  // namespace llamaherd

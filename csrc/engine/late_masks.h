#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "common/clock.h"
#include "engine/call_sampler.h"
#include "engine/result_delivery.h"
#include "sampling/sampled_output.h"
#include "scheduler/scheduler.h"

namespace llamaherd {

/// Requests whose mask was not there when their row was computed: the row is kept and sampled in a
/// later step.
class LateMasks {
 public:
  LateMasks(const Scheduler& scheduler, CallSampler& sampler, ResultDelivery& delivery,
            const Clock& clock)
      : scheduler_(scheduler), sampler_(sampler), delivery_(delivery), clock_(clock) {}

  /// Keeps rows of the call that has just been computed.
  void keep(const CallPlan& call, std::span<const SampledOutput> sampled, Backend& backend);

  /// Samples kept rows whose masks are there by now; requests that waited for too long end.
  void sample(std::vector<Delta>& out);

  /// For a step that has no rows: without it the engine's thread would spin until the mask is
  /// there.
  void wait();

 private:
  const Scheduler& scheduler_;
  CallSampler& sampler_;
  ResultDelivery& delivery_;
  const Clock& clock_;
  std::vector<Request*> late_;
};

}  // namespace llamaherd

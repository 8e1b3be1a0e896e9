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

/// Requests whose mask was not available when their row was computed. The row of logits is kept and
/// sampled in a later step.
class LateMasks {
 public:
  LateMasks(const Scheduler& scheduler, CallSampler& sampler, ResultDelivery& delivery,
            const Clock& clock)
      : scheduler_(scheduler), sampler_(sampler), delivery_(delivery), clock_(clock) {}

  /// Keeps the rows of the last call whose masks are late.
  void keep(const CallPlan& call, std::span<const SampledOutput> sampled, Backend& backend);

  /// Samples kept rows whose masks have arrived. Requests past the time limit end with an error.
  void sample(std::vector<Delta>& out);

  /// Waits for a mask in a step without rows, which would otherwise be a busy loop.
  void wait();

 private:
  const Scheduler& scheduler_;
  CallSampler& sampler_;
  ResultDelivery& delivery_;
  const Clock& clock_;
  std::vector<Request*> late_;
};

}  // namespace llamaherd

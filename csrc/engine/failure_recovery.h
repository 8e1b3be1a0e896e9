#pragma once

#include <span>
#include <vector>

#include "backend/backend.h"
#include "cache/prefix_cache.h"
#include "cache/prompt_logits_cache.h"
#include "common/clock.h"
#include "engine/cache_operations.h"
#include "engine/call_executor.h"
#include "engine/result_delivery.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_plan.h"

namespace llamaherd {

/// Executes calls. After a failure it identifies the request at fault and ends only that one.
class FailureRecovery {
 public:
  FailureRecovery(CallExecutor& executor, Scheduler& scheduler, Backend& backend,
                  PrefixCache& cache, PromptLogitsCache& prompt_logits, CacheOperations& operations,
                  ResultDelivery& delivery, EngineAccounting& accounting, const Clock& clock)
      : executor_(executor),
        scheduler_(scheduler),
        backend_(backend),
        cache_(cache),
        prompt_logits_(prompt_logits),
        operations_(operations),
        delivery_(delivery),
        accounting_(accounting),
        clock_(clock) {}

  /// Returns false if the rest of the step's plan no longer matches the state; it must then be
  /// replanned.
  bool execute(const CallPlan& call, std::vector<Delta>& out);

 private:
  using Outcome = CallOutcome;

  Outcome attempt(const CallPlan& call, std::vector<Delta>& out);
  bool bisect(const CallPlan& call, Outcome outcome, std::vector<Delta>& out);
  bool strike(Request& request, Outcome outcome, std::vector<Delta>& out);
  bool retry_alone(Request& request, Pos end, std::vector<Delta>& out);
  void isolate_poison(const std::vector<Request*>& poisoned, std::vector<Delta>& out);
  bool run_each_alone(const std::vector<Request*>& requests, std::vector<Delta>& out);
  Outcome run_alone(Request& request, Pos end, std::vector<Delta>& out);
  bool admit_now(const Request& request);
  bool loses_all(Outcome outcome) const;
  CallPlan replan(std::span<const PlannedRequest> items) const;
  void rebuild_cache();

  CallExecutor& executor_;
  Scheduler& scheduler_;
  Backend& backend_;
  PrefixCache& cache_;
  PromptLogitsCache& prompt_logits_;
  CacheOperations& operations_;
  ResultDelivery& delivery_;
  EngineAccounting& accounting_;
  const Clock& clock_;
};

}  // namespace llamaherd

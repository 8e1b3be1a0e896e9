#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "cache/prefix_cache.h"
#include "common/clock.h"
#include "cost/cost_model.h"
#include "scheduler/queue_forecast.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_plan.h"
#include "telemetry/metrics.h"
#include "telemetry/watchdog.h"

namespace llamaherd {

/// Counts what the engine does, divides time among requests, and keeps the means that forecasts
/// are made of. Writes the times of running requests and its own counters only.
class EngineAccounting {
 public:
  EngineAccounting(const Scheduler& scheduler, const CostModel& costs, const PrefixCache& cache,
                   const BackendInfo& backend, const Clock& clock)
      : scheduler_(scheduler), costs_(costs), cache_(cache), backend_(backend), clock_(clock) {}

  Metrics& counters() { return counters_; }

  /// All counters, with the figures of the scheduler and the cache as they are now.
  Metrics metrics() const;
  Watchdog::Load load() const;
  QueueForecast forecast() const;

  /// The time since it was last accounted for went into this, for all running requests.
  void spend_all(TimeCategory kind, std::int64_t now);

  /// What the call that has just ended was to each running request.
  void account_for(const CallPlan& call, std::int64_t now);

  /// A step with requests that decode had so many prefill rows.
  void observe_step(std::int64_t n_prefill_rows);

  void observe_shed(const Request& request, std::int64_t now);
  void finished(FinishReason reason);
  /// `request` ended by itself, `request_ns` after its first start.
  void completed(const Request& request, FinishReason reason, double request_ns);

 private:
  const Scheduler& scheduler_;
  const CostModel& costs_;
  const PrefixCache& cache_;
  const BackendInfo& backend_;
  const Clock& clock_;
  Metrics counters_;
  OutputLengths lengths_;
  double mean_prefill_rows_ = 0;  // of late, in steps with decoding
  double mean_request_ns_ = 0;    // from the first start to the end
  double mean_shed_gap_ns_ = 0;   // between waiting requests that are given up
  std::int64_t last_shed_ns_ = 0;
};

}  // namespace llamaherd

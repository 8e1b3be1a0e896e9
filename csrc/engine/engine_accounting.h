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

/// Counts events, attributes time to requests, and keeps the averages used by forecasts. Writes
/// only the times of running requests and its own counters.
class EngineAccounting {
 public:
  EngineAccounting(const Scheduler& scheduler, const CostModel& costs, const PrefixCache& cache,
                   const BackendInfo& backend, const Clock& clock)
      : scheduler_(scheduler), costs_(costs), cache_(cache), backend_(backend), clock_(clock) {}

  Metrics& counters() { return counters_; }

  /// All counters, and the present values of scheduler and cache.
  Metrics metrics() const;
  Watchdog::Load load() const;
  QueueForecast forecast() const;

  /// Attributes the time since the last call to this category, for all running requests.
  void spend_all(TimeCategory kind, std::int64_t now);

  /// Attributes the time of the call that has just ended to each running request.
  void account_for(const CallPlan& call, std::int64_t now);

  /// A step with decode rows had n_prefill_rows prefill rows.
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
  double mean_prefill_rows_ = 0;  // recent average in steps with decode rows
  double mean_request_ns_ = 0;    // from first start to end
  double mean_shed_gap_ns_ = 0;   // interval between waiting requests that are shed
  std::int64_t last_shed_ns_ = 0;
};

}  // namespace llamaherd

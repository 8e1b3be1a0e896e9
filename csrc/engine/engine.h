#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cache/prefix_cache.h"
#include "cache/prefix_cache_factory.h"
#include "cache/prompt_logits_cache.h"
#include "cache/sequence_id_pool.h"
#include "common/clock.h"
#include "common/vocabulary.h"
#include "cost/cost_model.h"
#include "engine/cache_operations.h"
#include "engine/call_executor.h"
#include "engine/call_sampler.h"
#include "engine/engine_accounting.h"
#include "engine/failure_recovery.h"
#include "engine/invariants.h"
#include "engine/late_masks.h"
#include "engine/result_delivery.h"
#include "sampling/token_constraint.h"
#include "scheduler/scheduler.h"
#include "telemetry/metrics.h"
#include "telemetry/trace_log.h"
#include "telemetry/watchdog.h"

namespace llamaherd {

/// Options of a request besides sampling.
struct SubmitOptions {
  bool streamed = true;  // false: only the last delta is delivered, with the whole output
  std::optional<CacheNamespace> cache_space = 0;  // none: a private request
  SchedulingKey key = {};
  std::int32_t index = 0;  // index among the outputs of one prompt
  std::shared_ptr<Constraint> constraint = nullptr;
};

/// Options of step planning.
struct PlanOptions {
  PackingOptions packing;
  RequestQueue::Options queue;
  std::optional<Calibration> calibration;  // none: default costs (only ratios matter)
  bool learns = true;                      // costs are refined by measured calls
  bool prompt_lookup = true;
};

/// Runs many requests on one backend, step by step. Single-threaded: EngineThread provides a
/// thread, tests call it directly.
class Engine {
 public:
  /// `backend`, `table` and `clock` must outlive the engine.
  Engine(Backend& backend, const Vocabulary& table, const Limits& limits, const PlanOptions& plan,
         const CacheOptions& cache = {}, const Clock& clock = steady_clock());

  /// `prompt` and `params` must be valid for `limits`; ids must increase with each call.
  void submit(RequestId id, SharedValue<std::vector<TokenId>> prompt,
              SharedValue<SamplingParams> params, std::uint64_t seed, std::int64_t submit_ns,
              const SubmitOptions& options = {});

  /// Ends the request unless it has ended; its cells are free on return.
  void cancel(RequestId id, std::vector<Delta>& out);

  /// Runs one step and appends the resulting deltas. An exception is fatal: afterwards only
  /// finish_all() may be called.
  void step(std::vector<Delta>& out);

  /// Ends all requests, waiting and running.
  void finish_all(FinishReason reason, const std::string& error, std::vector<Delta>& out);

  /// See PrefixCache. May be called between steps; flush_cache() only without running requests.
  void pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
           std::int64_t expires_ns);
  void unpin(const std::string& name);
  void clear_cache();
  /// Writes cached data to the disk tier. No request may be running.
  void flush_cache();

  /// Progress of requests in the order of `ids`; none: it has ended or was not submitted.
  std::vector<std::optional<RequestProgress>> progress(std::span<const RequestId> ids);

  /// The request, waiting or running, or nullptr. Valid until the next call.
  Request* find(RequestId id) { return scheduler_.find(id); }

  bool idle() const { return scheduler_.idle(); }
  Metrics metrics() const;
  Snapshot snapshot() const;

  /// Reports the numbers of requests to the watchdog.
  void report_load();

  /// Forecast of the queue, used before a request is queued.
  QueueForecast forecast() const { return accounting_.forecast(); }
  std::int64_t n_tokens_waiting() const { return scheduler_.queue().n_tokens(); }

  /// Thread-safe.
  Watchdog& watchdog() { return watchdog_; }
  const Watchdog& watchdog() const { return watchdog_; }
  TraceLog& trace() { return trace_; }

 private:
  void end_overdue(std::int64_t now, std::vector<Delta>& out);
  void restore(const StepPlan& plan);
  void sample_cached_prompts(const StepPlan& plan, std::vector<Delta>& out);

  // Each may use those before it.
  const Clock& clock_;
  Backend& backend_;
  const Vocabulary& table_;
  Limits limits_;
  bool caches_ = true;
  bool learns_ = true;
  SequenceIdPool pool_;
  std::unique_ptr<PrefixCache> cache_;
  PromptLogitsCache prompt_logits_;
  CostModel costs_;
  Scheduler scheduler_;
  CallSampler sampler_;
  Watchdog watchdog_;
  TraceLog trace_;
  EngineAccounting accounting_;
  CacheOperations operations_;
  ResultDelivery delivery_;
  LateMasks late_masks_;
  CallExecutor executor_;
  FailureRecovery recovery_;
  CallList calls_;  // of the current step
  std::vector<float> known_logits_;
};

}  // namespace llamaherd

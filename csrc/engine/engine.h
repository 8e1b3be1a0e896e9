#pragma once

#include <cstdint>
#include <memory>
#include <optional>
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

/// How a request is treated, beside its sampling.
struct SubmitOptions {
  bool streamed = true;                           // false: only the last delta comes out, with all
  std::optional<CacheNamespace> cache_space = 0;  // none: shares nothing and leaves nothing
  SchedulingKey key = {};
  std::int32_t index = 0;  // among the requests made of one prompt
  std::shared_ptr<Constraint> constraint = nullptr;
};

/// What steps are planned by.
struct PlanOptions {
  PackingOptions packing;
  RequestQueue::Options queue;
  std::optional<Calibration> calibration;  // none: of the costs only the ratios are assumed
  bool learns = true;                      // costs are refined by what calls took
  bool prompt_lookup = true;
};

/// Runs many requests over one backend, step by step. Single-threaded: EngineThread gives it a
/// thread, tests drive it directly.
class Engine {
 public:
  /// `backend`, `table` and `clock` must outlive the engine.
  Engine(Backend& backend, const Vocabulary& table, const Limits& limits, const PlanOptions& plan,
         const CacheOptions& cache = {}, const Clock& clock = steady_clock());

  /// `prompt` and `params` must be valid for `limits`; ids must grow from call to call.
  void submit(RequestId id, SharedValue<std::vector<TokenId>> prompt,
              SharedValue<SamplingParams> params, std::uint64_t seed, std::int64_t submit_ns,
              const SubmitOptions& options = {});

  /// Ends the request if it has not ended yet; its cells are free on return.
  void cancel(RequestId id, std::vector<Delta>& out);

  /// Runs one step and appends what requests gained. An exception is fatal: the engine's state is
  /// then undefined but for finish_all().
  void step(std::vector<Delta>& out);

  /// Ends every request, waiting and running.
  void finish_all(FinishReason reason, const std::string& error, std::vector<Delta>& out);

  /// See PrefixCache. All but flush_cache() between two steps, with requests running or not.
  void pin(const std::string& name, CacheNamespace space, std::vector<TokenId> tokens,
           std::int64_t expires_ns);
  void unpin(const std::string& name);
  void clear_cache();
  /// Writes what is cached to the disk tier; nothing may run any more.
  void flush_cache();

  /// The request, waiting or running, or nullptr. Valid until the next call.
  Request* find(RequestId id) { return scheduler_.find(id); }

  bool idle() const { return scheduler_.idle(); }
  Metrics metrics() const;
  Snapshot snapshot() const;

  /// Tells the watchdog how many requests there are.
  void report_load();

  /// What is predicted of the queue, for decisions before a request is queued.
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

  // In the order in which they use each other.
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
  CallList calls_;  // of the step under way
  std::vector<float> known_logits_;
};

}  // namespace llamaherd

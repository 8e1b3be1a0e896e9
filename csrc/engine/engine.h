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
#include "engine/batch_builder.h"
#include "engine/call_sampler.h"
#include "engine/invariants.h"
#include "engine/step_guard.h"
#include "engine/thread_count_tuner.h"
#include "sampling/token_constraint.h"
#include "scheduler/queue_forecast.h"
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

  /// Tells the watchdog what there is to do.
  void report_load();

  /// Who runs, who waits and how much, for what is told before a request is queued.
  QueueForecast forecast() const;
  std::int64_t n_tokens_waiting() const { return scheduler_.queue().n_tokens(); }

  /// Thread-safe.
  Watchdog& watchdog() { return watchdog_; }
  const Watchdog& watchdog() const { return watchdog_; }
  TraceLog& trace() { return trace_; }

 private:
  enum class Outcome { kOk, kPoisoned, kNoRoom, kInvalidBatch, kAborted, kFailed };

  void apply(std::vector<KvOp>& ops);
  void save(const KvOp& op);
  void sample_late(std::vector<Delta>& out);
  void keep_late(const CallPlan& call);
  void wait_for_mask();
  void sample_cached_prompts(const StepPlan& plan, std::vector<Delta>& out);
  void restore(const StepPlan& plan);
  void publish(const CallPlan& call);
  void spend_all(TimeCategory kind, std::int64_t now);
  void account_for(const CallPlan& call, std::int64_t now);
  void watch_step(std::int64_t begin_ns, std::int64_t n_prefill_rows, bool any_decode);
  void watch_end(const Request& request, double request_ns);
  void end_overdue(std::int64_t now, std::vector<Delta>& out);
  bool execute(const CallPlan& call, std::vector<Delta>& out);
  Outcome attempt(const CallPlan& call, std::vector<Delta>& out);
  Outcome outcome_of(DecodeStatus status);
  DecodeStatus decode(const CallPlan& call, std::int32_t n_pad);
  bool sample(const CallPlan& call);
  void emit(const CallPlan& call, std::vector<Delta>& out);
  void deliver_result(Request& request, const SampledOutput& sampled, std::int64_t now,
                      std::vector<Delta>& out);
  void emit(Request& request, std::int64_t now, std::vector<Delta>& out);

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

  void end(Request& request, FinishReason reason, const std::string& error,
           std::vector<Delta>& out);
  void retire(Request& request);
  void count_finish(FinishReason reason);

  const Clock& clock_;
  Backend& backend_;
  const Vocabulary& table_;
  Limits limits_;
  SequenceIdPool pool_;
  std::unique_ptr<PrefixCache> cache_;
  PromptLogitsCache logits_;
  bool caches_ = true;
  bool learns_ = true;
  CostModel costs_;
  ThreadCountTuner governor_;
  Scheduler scheduler_;
  CallList calls_;  // of the step under way
  BatchBuilder builder_;
  CallSampler sampler_;
  std::vector<SampledOutput> staged_;
  std::vector<float> known_logits_;
  std::vector<Request*> late_;
  std::vector<KvOp> ops_;
  std::string failure_;  // what the last failed decode said
  OutputLengths lengths_;
  double mean_prefill_rows_ = 0;  // of late, in steps with decoding
  double mean_request_ns_ = 0;    // from the first start to the end
  double mean_shed_gap_ns_ = 0;   // between waiting requests that are given up
  std::int64_t last_shed_ns_ = 0;
  Watchdog watchdog_;
  TraceLog trace_;
  Metrics metrics_;
};

}  // namespace llamaherd

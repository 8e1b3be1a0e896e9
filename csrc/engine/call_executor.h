#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cache/prefix_cache.h"
#include "cache/prompt_logits_cache.h"
#include "common/clock.h"
#include "cost/cost_model.h"
#include "engine/batch_builder.h"
#include "engine/cache_operations.h"
#include "engine/call_sampler.h"
#include "engine/engine_accounting.h"
#include "engine/late_masks.h"
#include "engine/result_delivery.h"
#include "engine/thread_count_tuner.h"
#include "scheduler/scheduler.h"
#include "telemetry/trace_log.h"
#include "telemetry/watchdog.h"

namespace llamaherd {

enum class CallOutcome { kOk, kPoisoned, kNoRoom, kInvalidBatch, kAborted, kFailed };

/// The engine's objects that a call uses.
struct CallContext {
  Backend& backend;
  PrefixCache& cache;
  CacheOperations& operations;
  PromptLogitsCache& prompt_logits;
  Scheduler& scheduler;
  CostModel& costs;
  CallSampler& sampler;
  LateMasks& late_masks;
  ResultDelivery& delivery;
  EngineAccounting& accounting;
  Watchdog& watchdog;
  TraceLog& trace;
  const Clock& clock;
};

/// Runs one model call as a transaction: decode, sample, commit, publish, deliver; or undo.
class CallExecutor {
 public:
  CallExecutor(const CallContext& context, bool learns)
      : c_(context),
        counters_(context.accounting.counters()),
        learns_(learns),
        thread_count_(context.backend.info().n_threads),
        builder_(context.backend.info().pad_seq) {}

  /// On kPoisoned, the requests without poisoned rows are committed and delivered.
  CallOutcome attempt(const CallPlan& call, std::vector<Delta>& out);

  /// Whether this item of the last attempt had a poisoned row.
  bool is_poisoned(std::size_t item) const { return sampled_[item].poisoned; }

  /// The cause of the last failed attempt.
  const std::string& failure() const { return failure_; }

  std::int32_t n_threads() const { return thread_count_.n_threads(); }

 private:
  CallOutcome outcome_of(DecodeStatus status);
  DecodeStatus decode(const CallPlan& call, std::int32_t n_pad);
  DecodeStatus decode_on_backend(const BatchView& batch);
  void learn(const CallPlan& call, const CallShape& shape, double predicted_ns, double spent_ns);
  bool sample(const CallPlan& call);
  void publish(const CallPlan& call);
  void deliver(const CallPlan& call, std::vector<Delta>& out);

  CallContext c_;
  Metrics& counters_;
  bool learns_;
  ThreadCountTuner thread_count_;
  BatchBuilder builder_;
  std::vector<SampledOutput> sampled_;
  std::string failure_;
};

}  // namespace llamaherd

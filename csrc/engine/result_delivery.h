#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache/prefix_cache.h"
#include "cache/sequence_id_pool.h"
#include "common/clock.h"
#include "engine/cache_operations.h"
#include "engine/engine_accounting.h"
#include "sampling/sampled_output.h"
#include "scheduler/scheduler.h"

namespace llamaherd {

/// Turns sampled tokens into deltas and releases requests that have ended.
class ResultDelivery {
 public:
  ResultDelivery(Scheduler& scheduler, SequenceIdPool& pool, PrefixCache& cache,
                 CacheOperations& operations, EngineAccounting& accounting, const Clock& clock)
      : scheduler_(scheduler),
        pool_(pool),
        cache_(cache),
        operations_(operations),
        accounting_(accounting),
        clock_(clock) {}

  /// Delivers the result of a committed row. The request may be destroyed on return.
  void deliver(Request& request, const SampledOutput& sampled, std::int64_t now,
               std::vector<Delta>& out);

  /// Ends a request, waiting or running. It is destroyed on return.
  void end(Request& request, FinishReason reason, const std::string& error,
           std::vector<Delta>& out);

 private:
  void deliver_token(Request& request, std::int64_t now, std::vector<Delta>& out);
  void release(Request& request);

  Scheduler& scheduler_;
  SequenceIdPool& pool_;
  PrefixCache& cache_;
  CacheOperations& operations_;
  EngineAccounting& accounting_;
  const Clock& clock_;
};

}  // namespace llamaherd

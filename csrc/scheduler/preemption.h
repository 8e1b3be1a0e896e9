#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/prefix_cache.h"
#include "cache/sequence_id_pool.h"
#include "scheduler/cell_budget.h"
#include "scheduler/preemption_policy.h"
#include "scheduler/request_queue.h"
#include "scheduler/running_set.h"

namespace llamaherd {

/// Preempts running requests if cells or sequence ids run out. The tokens they computed stay cached
/// while there is room.
class Preemption {
 public:
  Preemption(RunningSet& running, RequestQueue& queue, SequenceIdPool& pool, PrefixCache& cache,
             const CellBudget& budget)
      : running_(running), queue_(queue), pool_(pool), cache_(cache), budget_(budget) {}

  /// Preempts until the pending tokens of running requests fit. Appends preempted requests to
  /// `preempted`.
  void make_room_to_grow(std::int64_t now_ns, std::vector<KvOp>& ops,
                         std::vector<Request*>& preempted);

  /// Preempts requests of lower classes for one that needs `n_cells`, if that makes it fit.
  bool make_way(const Request& request, std::int32_t n_cells, const Room& reserved,
                std::int64_t now_ns, std::vector<KvOp>& ops, std::vector<Request*>& preempted);

  /// Removes a running request and settles its tenant's account. The caller releases its sequence.
  std::unique_ptr<Request> take(Request& request);

  std::int64_t n_preempted() const { return n_preempted_; }

 private:
  Request* victim(std::int32_t above_priority, bool any);
  void preempt(Request& request, std::int64_t now_ns, std::vector<KvOp>& ops,
               std::vector<Request*>& preempted);

  RunningSet& running_;
  RequestQueue& queue_;
  SequenceIdPool& pool_;
  PrefixCache& cache_;
  const CellBudget& budget_;
  std::vector<Runner> runners_;
  std::vector<Request*> runner_requests_;  // parallel to the runners
  std::int64_t n_preempted_ = 0;
};

}  // namespace llamaherd

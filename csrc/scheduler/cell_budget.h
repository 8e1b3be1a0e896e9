#pragma once

#include <cstdint>

#include "cache/prefix_cache.h"
#include "cache/sequence_id_pool.h"
#include "scheduler/preemption_policy.h"
#include "scheduler/running_set.h"

namespace llamaherd {

/// Sequence ids and cells, free or required.
struct Room {
  std::int32_t n_seqs = 0;
  std::int32_t n_cells = 0;

  bool has(std::int32_t n_cells_wanted) const { return n_seqs > 0 && n_cells_wanted <= n_cells; }
};

/// Capacity of the KV cache beyond the running requests. Cells of cached prefixes that no running
/// request uses count as free.
class CellBudget {
 public:
  CellBudget(std::int32_t n_cells, const RunningSet& running, const SequenceIdPool& pool,
             const PrefixCache& cache)
      : n_cells_(n_cells), running_(running), pool_(pool), cache_(cache) {}

  /// Cells reserved for a request: its pending tokens and headroom.
  static std::int32_t n_promised(const Request& request) {
    const std::int32_t n_left = request.n_cells_needed() - request.n_tokens();
    return request.n_pending() + headroom(n_left, request.n_preempted());
  }

  std::int32_t n_promised() const {
    std::int32_t n = 0;
    for (const auto& request : running_) n += n_promised(*request);
    return n;
  }

  Room room(const Room& reserved = {}) const {
    return {pool_.n_free() - reserved.n_seqs,
            n_cells_ - cache_.n_cells_needed() - n_promised() - reserved.n_cells};
  }

  /// Whether pending tokens of running requests exceed the cells.
  bool is_exceeded() const {
    std::int32_t n_pending = 0;
    for (const auto& request : running_) n_pending += request->n_pending();
    return n_pending > n_cells_ - cache_.n_cells_needed();
  }

 private:
  std::int32_t n_cells_;
  const RunningSet& running_;
  const SequenceIdPool& pool_;
  const PrefixCache& cache_;
};

}  // namespace llamaherd

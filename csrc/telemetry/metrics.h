#pragma once

#include <cstdint>

// Tables of metrics: X(type, name, initial value, description). The fields, Python's attributes and
// as_dict() are generated from them.

/// Counters of the prefix cache, in tokens unless stated, and its present state (from n_holders
/// on).
#define LLAMAHERD_CACHE_METRICS(X)                                                             \
  X(std::int64_t, n_looked_up, 0, "prompt tokens of admitted requests that may use the cache") \
  X(std::int64_t, n_from_running, 0, "of them, shared with a running sequence")                \
  X(std::int64_t, n_from_finished, 0, "of them, left by finished requests")                    \
  X(std::int64_t, n_from_in_flight, 0,                                                         \
    "of them, computed by another request while this one waited")                              \
  X(std::int64_t, n_from_ram, 0, "of them, restored from host memory")                         \
  X(std::int64_t, n_from_disk, 0, "of them, restored from disk")                               \
  X(std::int64_t, n_evicted_for_cells, 0,                                                      \
    "removed from the KV cache because other tokens needed the cells")                         \
  X(std::int64_t, n_evicted_for_holders, 0,                                                    \
    "removed because no sequence id was left to hold the prefix")                              \
  X(std::int64_t, n_evicted_by_clear, 0, "removed by clear()")                                 \
  X(std::int64_t, n_saved, 0, "of the removed, saved to host memory")                          \
  X(std::int64_t, n_dropped_ram, 0, "dropped from host memory for want of room")               \
  X(std::int64_t, n_dropped_disk, 0, "dropped from disk for want of room")                     \
  X(std::int64_t, n_damaged, 0, "blocks that could not be restored")                           \
  X(std::int64_t, n_followers, 0, "requests that waited for the prefill of another")           \
  X(std::int64_t, follower_wait_ns, 0, "time that they waited")                                \
  X(std::int32_t, n_holders, 0, "sequence ids that can hold cached prefixes")                  \
  X(std::int32_t, n_holders_used, 0, "of them, in use")                                        \
  X(std::int32_t, n_pins, 0, "pinned prefixes")                                                \
  X(std::int32_t, n_nodes, 0, "nodes of the tree")                                             \
  X(std::int32_t, n_cells_reclaimable, 0,                                                      \
    "cells that hold cached tokens no running request needs")                                  \
  X(std::int64_t, n_bytes_ram, 0, "bytes of KV data in host memory")                           \
  X(std::int64_t, n_bytes_disk, 0, "bytes of KV data on disk")

/// Counters of an engine since its start (n_*, *_ns) and its present state (from prefill_budget_ns
/// on). Times are wall time of the engine's thread.
#define LLAMAHERD_METRICS(X)                                                                      \
  X(std::int64_t, n_steps, 0, "steps")                                                            \
  X(std::int64_t, n_decode_steps, 0, "steps with at least one request that decodes")              \
  X(std::int64_t, n_decode_calls, 0, "model calls with at least one row of such a request")       \
  X(std::int64_t, n_decode_rows, 0, "rows of such requests")                                      \
  X(std::int64_t, n_prefill_calls, 0, "model calls with prefill rows only")                       \
  X(std::int64_t, n_prefill_rows, 0, "rows of prompt tokens")                                     \
  X(std::int64_t, n_padding_rows, 0,                                                              \
    "rows of no request, in calls that are faster with more rows")                                \
  X(std::int64_t, n_output_tokens, 0, "output tokens")                                            \
  X(std::int64_t, n_drafted, 0, "rows of draft tokens")                                           \
  X(std::int64_t, n_draft_accepted, 0, "of them, accepted")                                       \
  X(std::int64_t, n_prompt_logits_hits, 0,                                                        \
    "first tokens sampled from kept logits of the same prompt")                                   \
  X(std::int64_t, n_submitted, 0, "requests submitted")                                           \
  X(std::int64_t, n_finished_stop, 0, "requests that ended with STOP")                            \
  X(std::int64_t, n_finished_length, 0, "requests that ended with LENGTH")                        \
  X(std::int64_t, n_finished_cancelled, 0, "requests that ended with CANCELLED")                  \
  X(std::int64_t, n_finished_deadline, 0, "requests that ended with DEADLINE")                    \
  X(std::int64_t, n_finished_error, 0, "requests that ended with ERROR")                          \
  X(std::int64_t, n_shed, 0, "of those with DEADLINE, ended before prefill")                      \
  X(std::int64_t, n_preempted, 0, "times that a running request was preempted")                   \
  X(std::int64_t, n_no_room, 0, "model calls that found no room in the KV cache")                 \
  X(std::int64_t, n_invalid_batch, 0, "model calls that refused their batch")                     \
  X(std::int64_t, n_aborted, 0, "model calls that were aborted")                                  \
  X(std::int64_t, n_failed, 0, "model calls that failed otherwise")                               \
  X(std::int64_t, n_poisoned_rows, 0, "rows of logits with NaN or infinity")                      \
  X(std::int64_t, n_cache_rebuilds, 0, "times that the whole KV cache was cleared after a fault") \
  X(std::int64_t, n_sequences_dropped, 0,                                                         \
    "sequences prefilled again, as their memory cannot be trimmed")                               \
  X(std::int64_t, step_ns, 0, "in steps")                                                         \
  X(std::int64_t, decode_ns, 0, "of it, in calls of n_decode_calls")                              \
  X(std::int64_t, prefill_ns, 0, "of it, in calls of n_prefill_calls")                            \
  X(std::int64_t, sample_ns, 0, "of it, in sampling")                                             \
  X(std::int64_t, n_mask_waits, 0, "tokens whose sampling waited for their mask")                 \
  X(std::int64_t, mask_wait_ns, 0, "of sample_ns, waiting for masks")                             \
  X(std::int64_t, prefill_budget_ns, 0,                                                           \
    "prefill time per step beside requests that decode, at the last such step; 0: none")          \
  X(double, slowdown_ratio, 1, "duration of model calls relative to the calibration")             \
  X(std::int32_t, n_threads, 0, "CPU threads of model calls")                                     \
  X(std::int32_t, n_running, 0, "running requests")                                               \
  X(std::int32_t, n_waiting, 0, "queued requests")                                                \
  X(std::int32_t, n_seqs, 0, "requests that can run at once")                                     \
  X(std::int32_t, n_cells, 0, "cells of the KV cache")                                            \
  X(std::int32_t, n_cells_used, 0, "of them, used")                                               \
  X(std::int32_t, n_cells_reserved, 0, "of them, reserved for running requests")                  \
  X(std::int32_t, n_cells_used_max, 0, "most that were used at once")

namespace llamaherd {

#define LLAMAHERD_FIELD(type, name, value, text) type name = value;

enum class EvictionReason {
  kCells,     // other tokens need the cells
  kHolders,   // no sequence id is left to hold the prefix
  kClear,     // the cache is cleared
  kReplaced,  // a snapshot that contains this one exists; not counted
};

struct CacheMetrics {
  LLAMAHERD_CACHE_METRICS(LLAMAHERD_FIELD)

  void count_evicted(EvictionReason reason, std::int64_t n) {
    switch (reason) {
      case EvictionReason::kCells:
        n_evicted_for_cells += n;
        break;
      case EvictionReason::kHolders:
        n_evicted_for_holders += n;
        break;
      case EvictionReason::kClear:
        n_evicted_by_clear += n;
        break;
      case EvictionReason::kReplaced:
        break;
    }
  }
};

struct Metrics {
  LLAMAHERD_METRICS(LLAMAHERD_FIELD)

  CacheMetrics cache;
};

#undef LLAMAHERD_FIELD

}  // namespace llamaherd

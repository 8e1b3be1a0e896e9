#pragma once

#include <cstdint>

namespace llamaherd {

enum class EvictionReason {
  kCells,     // other tokens need the cells
  kHolders,   // no sequence id is left to hold the prefix
  kClear,     // the cache is cleared
  kReplaced,  // a snapshot that contains this one exists; not counted
};

/// What the prefix cache did (counted in tokens unless said) and how it stands (the last block).
struct CacheMetrics {
  std::int64_t n_looked_up = 0;       // of requests that may use the cache, when they were admitted
  std::int64_t n_from_running = 0;    // of them, shared with a running sequence
  std::int64_t n_from_finished = 0;   // with what finished ones left
  std::int64_t n_from_in_flight = 0;  // with one that computed them while this request waited
  std::int64_t n_from_ram = 0;        // brought back
  std::int64_t n_from_disk = 0;
  std::int64_t n_evicted_for_cells = 0;  // left the KV cache, by EvictionReason
  std::int64_t n_evicted_for_holders = 0;
  std::int64_t n_evicted_by_clear = 0;
  std::int64_t n_saved = 0;        // of all these, moved to host memory
  std::int64_t n_dropped_ram = 0;  // forgotten by the lower tiers for want of room
  std::int64_t n_dropped_disk = 0;
  std::int64_t n_damaged = 0;    // blocks that could not be brought back
  std::int64_t n_followers = 0;  // requests that waited for another's prefill
  std::int64_t follower_wait_ns = 0;

  std::int32_t n_holders = 0;
  std::int32_t n_holders_used = 0;
  std::int32_t n_pins = 0;
  std::int32_t n_nodes = 0;
  std::int32_t n_cells_reclaimable = 0;  // cached, and needed by nobody who runs
  std::int64_t n_bytes_ram = 0;
  std::int64_t n_bytes_disk = 0;

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

/// What an engine did since it was made (n_*, *_ns) and how it stands (the last block). Times are
/// wall time of the engine's thread.
struct Metrics {
  std::int64_t n_steps = 0;
  std::int64_t n_decode_steps = 0;  // steps with at least one request that decodes
  std::int64_t n_decode_calls = 0;  // calls with at least one row of such a request
  std::int64_t n_decode_rows = 0;
  std::int64_t n_prefill_calls = 0;  // calls with prefill rows only
  std::int64_t n_prefill_rows = 0;
  std::int64_t n_pad_rows = 0;  // nobody's, in calls that are quicker with more rows
  std::int64_t n_output_tokens = 0;
  std::int64_t n_drafted = 0;         // rows of tokens guessed by prompt lookup
  std::int64_t n_draft_accepted = 0;  // of them, guessed right
  std::int64_t n_known_starts = 0;    // first tokens sampled from logits kept of the same prompt

  std::int64_t n_submitted = 0;
  std::int64_t n_finished_stop = 0;
  std::int64_t n_finished_length = 0;
  std::int64_t n_finished_cancelled = 0;
  std::int64_t n_finished_deadline = 0;
  std::int64_t n_finished_error = 0;
  std::int64_t n_shed = 0;       // of those ended for a deadline, before anything was computed
  std::int64_t n_preempted = 0;  // times that a running request had to wait again

  std::int64_t n_no_room = 0;  // decode calls by failure
  std::int64_t n_invalid_batch = 0;
  std::int64_t n_aborted = 0;
  std::int64_t n_failed = 0;
  std::int64_t n_poisoned_rows = 0;      // logits rows with NaN or inf
  std::int64_t n_cache_rebuilds = 0;     // all of it cleared, for them or for states that were lost
  std::int64_t n_sequences_dropped = 0;  // prefilled again as their memory cannot be trimmed

  std::int64_t step_ns = 0;     // all of step()
  std::int64_t decode_ns = 0;   // of it, in calls counted by n_decode_calls
  std::int64_t prefill_ns = 0;  // of it, in calls counted by n_prefill_calls
  std::int64_t sample_ns = 0;
  std::int64_t n_mask_waits = 0;  // tokens that were not sampled until their mask came
  std::int64_t mask_wait_ns = 0;  // of sample_ns

  std::int64_t prefill_budget_ns = 0;  // the last step's, beside requests that decode; 0: none did
  double pace = 1;                     // how much longer calls take now than when calibrated
  std::int32_t n_threads = 0;          // CPU threads that decode calls run on now
  std::int32_t n_running = 0;
  std::int32_t n_waiting = 0;
  std::int32_t n_seqs = 0;  // as many can run at once
  std::int32_t n_cells = 0;
  std::int32_t n_cells_used = 0;
  std::int32_t n_cells_reserved = 0;
  std::int32_t n_cells_used_max = 0;

  CacheMetrics cache;
};

}  // namespace llamaherd

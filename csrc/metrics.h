#pragma once

#include <cstdint>

namespace llamaherd {

/// What an engine did since it was made (n_*, *_ns) and how it stands (the last block). Times are
/// wall time of the engine's thread.
struct Metrics {
  std::int64_t n_steps = 0;
  std::int64_t n_decode_calls = 0;  // calls with at least one row of a request that decodes
  std::int64_t n_decode_rows = 0;
  std::int64_t n_prefill_calls = 0;  // calls with prefill rows only
  std::int64_t n_prefill_rows = 0;
  std::int64_t n_output_tokens = 0;

  std::int64_t n_submitted = 0;
  std::int64_t n_finished_stop = 0;
  std::int64_t n_finished_length = 0;
  std::int64_t n_finished_cancelled = 0;
  std::int64_t n_finished_error = 0;

  std::int64_t n_no_room = 0;  // decode calls by failure
  std::int64_t n_invalid_batch = 0;
  std::int64_t n_aborted = 0;
  std::int64_t n_failed = 0;
  std::int64_t n_poisoned_rows = 0;      // logits rows with NaN or inf
  std::int64_t n_cache_rebuilds = 0;     // the whole cache cleared because of them
  std::int64_t n_sequences_dropped = 0;  // prefilled again as their memory cannot be trimmed

  std::int64_t step_ns = 0;     // all of step()
  std::int64_t decode_ns = 0;   // of it, in calls counted by n_decode_calls
  std::int64_t prefill_ns = 0;  // of it, in calls counted by n_prefill_calls
  std::int64_t sample_ns = 0;

  std::int32_t n_running = 0;
  std::int32_t n_waiting = 0;
  std::int32_t n_seqs = 0;  // as many can run at once
  std::int32_t n_cells = 0;
  std::int32_t n_cells_used = 0;
  std::int32_t n_cells_reserved = 0;
  std::int32_t n_cells_used_max = 0;
};

}  // namespace llamaherd

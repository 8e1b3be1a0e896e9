#pragma once

namespace llamaherd {

/// What things cost on this machine with this model, in nanoseconds, in short; see CostModel. Only
/// their ratios matter.
struct CostEstimates {
  double prefill_token_ns = 1e6;
  double step_ns = 10e6;             // one decode call, whatever is in it
  double load_token_ns = 5e3;        // KV data from host memory to the cache
  double load_call_ns = 200e3;       // of it, per block
  double disk_read_token_ns = 50e3;  // on top of it, from a file
};

}  // namespace llamaherd

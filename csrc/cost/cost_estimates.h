#pragma once

namespace llamaherd {

/// Summary of a CostModel for this machine and model, in nanoseconds. Used by decisions that depend
/// on ratios only.
struct CostEstimates {
  double prefill_token_ns = 1e6;
  double step_ns = 10e6;             // fixed cost of one decode call
  double load_token_ns = 5e3;        // restoring one token from host memory to the KV cache
  double load_call_ns = 200e3;       // additional cost per block
  double disk_read_token_ns = 50e3;  // additional cost per token from disk
};

}  // namespace llamaherd

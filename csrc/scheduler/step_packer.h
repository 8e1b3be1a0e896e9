#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "common/types.h"
#include "cost/cost_model.h"
#include "cost/decode_batching.h"

namespace llamaherd {

struct PackingOptions {
  std::int32_t max_prefill_rows = 0;  // of one step
  std::int32_t max_call_rows = 0;     // >= max_prefill_rows and >= the requests that can run
  double target_itl_ns = 0;           // inter-token latency; 0: the time of one chunk of kChunkRows
  bool may_pad = false;               // calls may have padding rows
};

/// The properties of a running request that packing depends on.
struct Candidate {
  std::int32_t n_pending = 0;  // pending tokens, >= 1; 1: it decodes
  Pos kv_len = 0;
  std::int64_t last_missed = 0;  // the last step in which it got no decode row
};

/// Load that affects the prefill budget of a step.
struct QueueState {
  std::int32_t n_waiting = 0;     // waiting requests
  std::int32_t n_cells_used = 0;  // of the KV cache
};

struct PackedCall {
  struct Item {
    std::size_t candidate = 0;
    std::int32_t n_rows = 0;
  };
  std::vector<Item> items;
  std::int32_t n_pad = 0;
};

/// Packs steps. Decode rows are divided into the calls that the cost model predicts to be fastest.
/// If a subset of the decode rows has a lower time per row, requests take turns. Prompts share a
/// budget of rows, in the given order: without decode rows, the chunk size with the lowest time per
/// row; otherwise the rows that fit the target inter-token latency. The target is extended, by up
/// to kMaxWidening times, with the number of queued prompts per decoding request. The first prompt
/// always gets kLeastChunkRows rows.
class Packer {
 public:
  static constexpr double kMaxWidening = 4;
  static constexpr std::int32_t kLeastChunkRows = 16;

  Packer(const PackingOptions& options, std::int32_t n_seqs)
      // Beyond n_seqs rows the cost curve is measured with logits of the last row only.
      : options_(options),
        batching_(n_seqs, options.may_pad ? std::min(options.max_call_rows, n_seqs) : 0) {}

  /// The step's calls; valid until the next call. No candidate is in two of them.
  std::span<const PackedCall> pack(std::span<const Candidate> candidates, const QueueState& load,
                                   const CostModel& model);

  /// Prefill time budget of the last step in nanoseconds; 0: no request decoded.
  double prefill_budget_ns() const { return prefill_budget_ns_; }

 private:
  using Candidates = std::span<const Candidate>;

  PackedCall& new_call();
  void take_turns(Candidates candidates, const CostModel& model);
  void pack_decode(Candidates candidates, const CostModel& model);
  void pack_prefill(Candidates candidates, const CostModel& model);
  void pad_usefully(Candidates candidates, std::size_t n_served);
  std::int32_t n_prefill_rows(Candidates candidates, const CostModel& model);
  std::int32_t best_chunk(const CostModel& model) const;
  double call_ns(const PackedCall& call, Candidates candidates, const CostModel& model) const;
  double chunk_ns(std::int32_t n_rows, Pos depth, const CostModel& model) const;

  PackingOptions options_;
  DecodeBatching batching_;
  QueueState load_;
  std::vector<std::size_t> decoders_;  // indices of candidates
  std::vector<std::size_t> prompts_;
  std::vector<PackedCall> calls_;  // kept to reuse their memory
  std::size_t n_calls_ = 0;
  PackedCall merged_;
  double decode_ns_ = 0;
  double prefill_budget_ns_ = 0;
};

}  // namespace llamaherd

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
  std::int32_t n_rows = 0;   // prefill rows of one step at most
  std::int32_t n_batch = 0;  // rows of one call at most: >= n_rows and the requests that can run
  double target_itl_ns = 0;  // how far apart a running request's tokens should be at most;
                             // 0: one chunk of kChunkRows apart
  bool may_pad = false;      // calls may carry rows that nobody needs
};

/// A running request, as far as packing depends on it.
struct Candidate {
  std::int32_t n_pending = 0;  // tokens it has yet to run, >= 1; 1: it decodes
  Pos kv_len = 0;
  std::int64_t last_missed = 0;  // the last step that others had instead
};

/// What else decides how much prefill a step carries.
struct QueueState {
  std::int32_t n_waiting = 0;     // requests that do not run yet
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

/// Packs steps. Requests that decode get their rows in as many calls as the cost model finds best;
/// all of them or, where fewer rows take so much less time that each request is served more often
/// in turns, as many as that, the others' turn being next. Prompts get, in the order given, a
/// budget of rows: with nobody decoding, the chunk whose rows are cheapest; else what fits the time
/// that may lie between two tokens. The more prompts are in line for each request that decodes, the
/// longer that time becomes, up to kMaxWidening times; and however little it is, the first prompt
/// gets kLeastChunkRows.
class Packer {
 public:
  static constexpr double kMaxWidening = 4;
  static constexpr std::int32_t kLeastChunkRows = 16;

  Packer(const PackingOptions& options, std::int32_t n_seqs)
      // Beyond n_seqs the curve is that of prompts, of whose rows only the last computes logits.
      : options_(options),
        batching_(n_seqs, options.may_pad ? std::min(options.n_batch, n_seqs) : 0) {}

  /// The step's calls; valid until the next call. No candidate stands in two of them.
  std::span<const PackedCall> pack(std::span<const Candidate> candidates, const QueueState& load,
                                   const CostModel& model);

  /// Prefill nanoseconds the last step was allowed beside decoding, 0 if nothing decoded.
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
  std::vector<std::size_t> decoders_;  // of the candidates
  std::vector<std::size_t> prompts_;
  std::vector<PackedCall> calls_;  // kept, with their memory
  std::size_t n_calls_ = 0;
  PackedCall merged_;
  double decode_ns_ = 0;
  double prefill_budget_ns_ = 0;
};

}  // namespace llamaherd

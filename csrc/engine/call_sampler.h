#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "request/request.h"
#include "sampling/sampled_output.h"
#include "sampling/top_k.h"
#include "scheduler/step_plan.h"

namespace llamaherd {

/// Turns rows of logits into tokens and log-probabilities. Does not modify requests.
class CallSampler {
 public:
  explicit CallSampler(std::int32_t n_threads) : scratch_(n_threads) {}

  /// Samples all rows of a decoded call on the backend's threads. out[i] belongs to call.items[i].
  void sample_call(const CallPlan& call, Backend& backend, std::vector<SampledOutput>& out);

  /// The request's next token from this row, which may be overwritten.
  SampledOutput sample_row(const Request& request, std::span<float> logits);

  /// Number of rows whose sampling waited for a mask, and the waiting time in nanoseconds.
  std::int64_t n_waits() const { return n_waits_; }
  std::int64_t wait_ns() const { return wait_ns_; }

 private:
  struct Row {
    std::size_t item;
    const Request* request;
    std::span<float> logits;
    std::optional<Pos> scored;  // position of the token to score; none: the next token is sampled
    std::span<const TokenId> draft_tokens;  // their rows are drafts_[first_draft + i]
    std::size_t first_draft;
    SampledOutput result;
  };

  static SampledOutput sample_row(const Request& request, std::span<float> logits,
                                  RowScratch& scratch);
  void compute(Row& row, RowScratch& scratch) const;
  void sample_late();
  void sample_drafts(Row& row, RowScratch& scratch) const;
  void list_rows(const CallPlan& call, Backend& backend);

  std::vector<Row> rows_;
  std::vector<Row*> ready_, late_;
  std::vector<std::span<float>> drafts_;  // rows of logits
  std::vector<RowScratch> scratch_;       // one per thread
  std::int64_t n_waits_ = 0, wait_ns_ = 0;
};

}  // namespace llamaherd

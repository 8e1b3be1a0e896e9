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

/// Turns rows of logits into tokens and log-probabilities. Changes no request.
class CallSampler {
 public:
  explicit CallSampler(std::int32_t n_threads) : scratch_(n_threads) {}

  /// All rows of a call that was decoded, on the backend's threads: out[i] is of call.items[i].
  void sample(const CallPlan& call, Backend& backend, std::vector<SampledOutput>& out);

  /// The request's next token by this row, which may be written.
  SampledOutput sample(const Request& request, std::span<float> logits);

  /// Rows that were waited for because of their constraint, and nanoseconds.
  std::int64_t n_waits() const { return n_waits_; }
  std::int64_t wait_ns() const { return wait_ns_; }

 private:
  struct Row {
    std::size_t item;
    const Request* request;
    std::span<float> logits;
    std::optional<Pos> scored;  // the token behind this one is looked up; none: the next is sampled
    std::span<const TokenId> draft_tokens;  // the rows behind are drafts_[first_draft + i]
    std::size_t first_draft;
    SampledOutput result;
  };

  static SampledOutput sample(const Request& request, std::span<float> logits, RowScratch& scratch);
  void compute(Row& row, RowScratch& scratch) const;
  void sample_late();
  void sample_drafts(Row& row, RowScratch& scratch) const;
  void list_rows(const CallPlan& call, Backend& backend);

  std::vector<Row> rows_;
  std::vector<Row*> ready_, late_;
  std::vector<std::span<float>> drafts_;  // rows of logits
  std::vector<RowScratch> scratch_;       // one for each thread
  std::int64_t n_waits_ = 0, wait_ns_ = 0;
};

}  // namespace llamaherd

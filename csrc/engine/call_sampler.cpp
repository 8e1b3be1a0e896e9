#include "engine/call_sampler.h"

#include <chrono>
#include <string>
#include <utility>

#include "sampling/constrained_sampling.h"
#include "sampling/logprobs.h"

namespace llamaherd {
namespace {

// With fewer logits, starting the other threads takes longer than sampling.
constexpr std::size_t kLogitsWorthSharing = std::size_t{1} << 17;
// Longest time that one call waits for late masks; it delays all requests of the call.
constexpr std::chrono::milliseconds kMaxMaskWait{2};

}  // namespace

void CallSampler::sample_call(const CallPlan& call, Backend& backend,
                              std::vector<SampledOutput>& out) {
  list_rows(call, backend);
  const auto run = [this](std::int32_t i, std::int32_t thread) {
    compute(*ready_[i], scratch_[thread]);
  };
  const auto n_ready = static_cast<std::int32_t>(ready_.size());
  if (n_ready > 1 && n_ready * rows_.front().logits.size() >= kLogitsWorthSharing) {
    backend.run_in_parallel(n_ready, run);
  } else {
    for (std::int32_t i = 0; i < n_ready; ++i) run(i, 0);
  }
  if (!late_.empty()) sample_late();
  out.assign(call.items.size(), {});
  for (Row& row : rows_) {
    SampledOutput& sampled = out[row.item];
    sampled.poisoned |= row.result.poisoned;
    sampled.late |= row.result.late;
    if (!row.scored) {
      sampled.token = row.result.token;
      sampled.error = std::move(row.result.error);
      sampled.further = std::move(row.result.further);
      sampled.logprob = std::move(row.result.logprob);
    } else if (row.result.logprob) {
      sampled.scores.push_back(std::move(*row.result.logprob));
    }
  }
}

/// Lists an item's rows in the order of their tokens. Runs on one thread: Backend::logits() is not
/// thread-safe.
void CallSampler::list_rows(const CallPlan& call, Backend& backend) {
  rows_.clear();
  ready_.clear();
  late_.clear();
  drafts_.clear();
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    const PlannedRequest& item = call.items[i];
    for (Pos pos = item.score_begin; pos < item.score_end; ++pos) {
      rows_.push_back({i, item.request, backend.logits(item.row_of(pos)), pos, {}, 0, {}});
    }
    if (item.logits_row < 0) continue;
    const auto n_drafted = static_cast<std::size_t>(item.n_drafted);
    rows_.push_back({i,
                     item.request,
                     backend.logits(item.logits_row),
                     std::nullopt,
                     std::span(item.request->draft.tokens).first(n_drafted),
                     drafts_.size(),
                     {}});
    for (std::int32_t d = 1; d <= item.n_drafted; ++d) {
      drafts_.push_back(backend.logits(item.logits_row + d));
    }
  }
  for (Row& row : rows_) {
    const Constraint* constraint = row.scored ? nullptr : row.request->constrained.constraint.get();
    (constraint && !constraint->ready() ? late_ : ready_).push_back(&row);
  }
}

SampledOutput CallSampler::sample_row(const Request& request, std::span<float> logits) {
  if (!request.constrained.constraint || request.constrained.constraint->ready()) {
    return sample_row(request, logits, scratch_.front());
  }
  SampledOutput sampled;
  sampled.late = true;
  return sampled;
}

/// One after the other: they share one time limit.
void CallSampler::sample_late() {
  const auto begin = std::chrono::steady_clock::now();
  for (Row* row : late_) {
    row->request->constrained.constraint->wait(begin + kMaxMaskWait -
                                               std::chrono::steady_clock::now());
    row->result = sample_row(*row->request, row->logits);
  }
  wait_ns_ += (std::chrono::steady_clock::now() - begin) / std::chrono::nanoseconds(1);
  n_waits_ += std::ssize(late_);
}

/// Each token is sampled from the model's distribution given the tokens before it. A draft token
/// only determines whether that distribution has been computed.
void CallSampler::sample_drafts(Row& row, RowScratch& scratch) const {
  SampledOutput& sampled = row.result;
  std::optional<TokenId> token = sampled.token;
  for (std::size_t i = 0; i < row.draft_tokens.size() && token == row.draft_tokens[i]; ++i) {
    token = row.request->sampler().sample(drafts_[row.first_draft + i], scratch,
                                          static_cast<std::int32_t>(i) + 1);
    if (!token) return;
    sampled.further.push_back(*token);
  }
}

void CallSampler::compute(Row& row, RowScratch& scratch) const {
  if (!row.scored) {
    row.result = sample_row(*row.request, row.logits, scratch);
    if (row.result.token) sample_drafts(row, scratch);
    return;
  }
  row.result.logprob = logprob_of(row.request->tokens()[*row.scored + 1], row.logits,
                                  *row.request->n_prompt_logprobs(), scratch);
  row.result.poisoned = !row.result.logprob;
}

SampledOutput CallSampler::sample_row(const Request& request, std::span<float> logits,
                                      RowScratch& scratch) {
  SampledOutput sampled;
  if (const auto forced = request.forced()) {
    sampled.logprob = logprob_of(*forced, logits, *request.n_prompt_logprobs(), scratch);
    if (sampled.logprob) sampled.token = forced;
  } else {
    const Sampler& sampler = request.sampler();
    std::span<const float> raw = logits;
    const bool constrained =
        request.constrained.constraint && !request.constrained.constraint->allows_all();
    if (request.n_logprobs() && (sampler.edits() || constrained)) {
      scratch.raw.assign(logits.begin(), logits.end());
      raw = scratch.raw;
    }
    if (constrained) {
      sampled = sample_constrained(sampler, *request.constrained.constraint, logits, scratch);
    } else {
      sampled.token = sampler.sample(logits, scratch);
    }
    if (sampled.token && request.n_logprobs()) {
      sampled.logprob = logprob_of(*sampled.token, raw, *request.n_logprobs(), scratch);
    }
  }
  sampled.poisoned = !sampled.token && sampled.error.empty();
  return sampled;
}

}  // namespace llamaherd

#include "scheduler/step_packer.h"

#include <algorithm>
#include <utility>

namespace llamaherd {
namespace {

// A larger chunk may be this much slower per row, as it needs fewer calls.
constexpr double kChunkTolerance = 1.02;

std::int32_t n_rows_of(const PackedCall& call) {
  std::int32_t n = 0;
  for (const PackedCall::Item& item : call.items) n += item.n_rows;
  return n;
}

}  // namespace

std::span<const PackedCall> Packer::pack(Candidates candidates, const QueueState& load,
                                         const CostModel& model) {
  load_ = load;
  n_calls_ = 0;
  decoders_.clear();
  prompts_.clear();
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    (candidates[i].n_pending == 1 ? decoders_ : prompts_).push_back(i);
  }
  // A step with prefill is long in any case.
  if (prompts_.empty()) take_turns(candidates, model);
  pack_decode(candidates, model);
  pack_prefill(candidates, model);
  return std::span(calls_).first(n_calls_);
}

PackedCall& Packer::new_call() {
  if (n_calls_ == calls_.size()) calls_.emplace_back();
  PackedCall& call = calls_[n_calls_++];
  call.items.clear();
  call.n_pad = 0;
  return call;
}

void Packer::take_turns(Candidates candidates, const CostModel& model) {
  const auto n = static_cast<std::int32_t>(decoders_.size());
  if (n < 2) return;
  const std::int32_t n_best = batching_.most_productive(n, model);
  if (n_best == n) return;
  std::ranges::sort(decoders_, {},
                    [&](std::size_t i) { return std::pair(-candidates[i].last_missed, i); });
  decoders_.resize(n_best);
}

void Packer::pack_decode(Candidates candidates, const CostModel& model) {
  decode_ns_ = 0;
  if (decoders_.empty()) return;
  auto next = decoders_.begin();
  for (const DecodeBatch& width :
       batching_.of(static_cast<std::int32_t>(decoders_.size()), model)) {
    PackedCall& call = new_call();
    call.n_pad = width.n_pad;
    for (std::int32_t i = 0; i < width.n_rows; ++i) call.items.push_back({*next++, 1});
    decode_ns_ += call_ns(call, candidates, model);
  }
}

/// Distributes the step's prefill rows over the prompts in order, in a call of their own or in the
/// last decode call, whichever is predicted to take less time.
void Packer::pack_prefill(Candidates candidates, const CostModel& model) {
  prefill_budget_ns_ = 0;
  if (prompts_.empty()) return;
  std::int32_t n_left = n_prefill_rows(candidates, model);
  PackedCall& prefill = new_call();
  std::size_t n_served = 0;
  for (; n_served < prompts_.size() && n_left > 0; ++n_served) {
    const std::size_t i = prompts_[n_served];
    std::int32_t n = std::min(candidates[i].n_pending, n_left);
    if (n < candidates[i].n_pending) {
      const std::int32_t n_whole_tiles = n / kChunkRows * kChunkRows;
      if (n_whole_tiles > 0 || !prefill.items.empty()) n = n_whole_tiles;
    }
    if (n == 0) continue;
    prefill.items.push_back({i, n});
    n_left -= n;
  }
  if (decoders_.empty()) return;
  PackedCall& last = calls_[n_calls_ - 2];
  merged_ = last;
  merged_.n_pad = 0;
  merged_.items.insert(merged_.items.end(), prefill.items.begin(), prefill.items.end());
  const double apart_ns = call_ns(last, candidates, model) + call_ns(prefill, candidates, model);
  if (n_rows_of(merged_) <= options_.max_call_rows &&
      call_ns(merged_, candidates, model) < apart_ns) {
    std::swap(last, merged_);
    --n_calls_;
  }
  pad_usefully(candidates, n_served);
}

/// Replaces padding rows by rows of prompts that got none.
void Packer::pad_usefully(Candidates candidates, std::size_t n_served) {
  std::size_t next = n_served;
  for (PackedCall& call : std::span(calls_).first(n_calls_)) {
    while (call.n_pad > 0 && next < prompts_.size()) {
      const std::size_t i = prompts_[next++];
      const std::int32_t n = std::min(candidates[i].n_pending, call.n_pad);
      call.items.push_back({i, n});
      call.n_pad -= n;
    }
  }
}

std::int32_t Packer::n_prefill_rows(Candidates candidates, const CostModel& model) {
  if (decoders_.empty()) return best_chunk(model);
  const Pos depth = candidates[prompts_[0]].kv_len;
  const double n_in_line = static_cast<double>(prompts_.size()) + load_.n_waiting;
  const double widening =
      std::clamp(n_in_line / static_cast<double>(decoders_.size()), 1.0, kMaxWidening);
  prefill_budget_ns_ =
      options_.target_itl_ns > 0
          ? options_.target_itl_ns * widening - decode_ns_
          : chunk_ns(static_cast<std::int32_t>(widening) * kChunkRows, depth, model);
  const std::int32_t n_most =
      options_.max_prefill_rows - static_cast<std::int32_t>(decoders_.size());
  if (n_most < kChunkRows && chunk_ns(std::max(n_most, 1), depth, model) <= prefill_budget_ns_) {
    return std::max(n_most, 1);
  }
  for (std::int32_t n = n_most / kChunkRows * kChunkRows; n >= kChunkRows; n -= kChunkRows) {
    if (chunk_ns(n, depth, model) <= prefill_budget_ns_) return n;
  }
  for (std::int32_t n = kChunkRows / 2; n > kLeastChunkRows; n /= 2) {
    if (n <= n_most && chunk_ns(n, depth, model) <= prefill_budget_ns_) return n;
  }
  return std::max(1, std::min(n_most, kLeastChunkRows));
}

/// The chunk size with the least time per row. Excludes attention, which does not depend on how
/// prompts are divided into calls.
std::int32_t Packer::best_chunk(const CostModel& model) const {
  const auto row_ns = [&](std::int32_t n) { return model.call_ns({n}) / n; };
  const std::int32_t n_most = options_.max_prefill_rows / kChunkRows * kChunkRows;
  std::int32_t best = std::min(options_.max_prefill_rows, kChunkRows);
  double best_ns = row_ns(best);
  for (std::int32_t n = best + kChunkRows; n <= n_most; n += kChunkRows) {
    const double ns = row_ns(n);
    if (ns > kChunkTolerance * best_ns) continue;
    best = n;
    best_ns = std::min(best_ns, ns);
  }
  return best;
}

double Packer::chunk_ns(std::int32_t n_rows, Pos depth, const CostModel& model) const {
  ShapeSum sum;
  sum.add(depth, n_rows);
  return model.call_ns(sum.shape(load_.n_cells_used));
}

double Packer::call_ns(const PackedCall& call, Candidates candidates,
                       const CostModel& model) const {
  ShapeSum sum;
  for (const PackedCall::Item& item : call.items) {
    sum.add(candidates[item.candidate].kv_len, item.n_rows);
  }
  sum.pad(call.n_pad);
  return model.call_ns(sum.shape(load_.n_cells_used));
}

}  // namespace llamaherd

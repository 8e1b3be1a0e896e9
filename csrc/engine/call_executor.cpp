#include "engine/call_executor.h"

#include <algorithm>
#include <exception>
#include <stdexcept>

#include "engine/step_guard.h"

namespace llamaherd {

CallOutcome CallExecutor::attempt(const CallPlan& call, std::vector<Delta>& out) {
  const bool fits = c_.cache.make_room(call.n_rows + call.n_pad, c_.operations.pending());
  if (!fits) c_.cache.make_room(call.n_rows, c_.operations.pending());
  c_.operations.apply();
  StepGuard guard(call, c_.backend, c_.cache);
  CallOutcome outcome = outcome_of(decode(call, fits ? call.n_pad : 0));
  const bool decoded = outcome == CallOutcome::kOk;
  if (decoded) {
    if (sample(call)) outcome = CallOutcome::kPoisoned;
    guard.commit_call(sampled_);
    c_.late_masks.keep(call, sampled_, c_.backend);
    for (const SampledOutput& sampled : sampled_)
      counters_.n_draft_accepted += std::ssize(sampled.further);
    publish(call);
  } else {
    guard.undo_all();
  }
  counters_.n_sequences_dropped += guard.n_dropped();
  counters_.n_cells_used_max = std::max(counters_.n_cells_used_max, c_.cache.n_cells_used());
  if (decoded) deliver(call, out);
  return outcome;
}

CallOutcome CallExecutor::outcome_of(DecodeStatus status) {
  switch (status) {
    case DecodeStatus::kOk:
      return CallOutcome::kOk;
    case DecodeStatus::kNoRoom:
      ++counters_.n_no_room;
      failure_ = "the KV cache has no room for its rows, although they were planned to fit";
      return CallOutcome::kNoRoom;
    case DecodeStatus::kInvalidBatch:
      ++counters_.n_invalid_batch;
      failure_ = "the backend rejected its rows as invalid";
      return CallOutcome::kInvalidBatch;
    case DecodeStatus::kAborted:
      ++counters_.n_aborted;
      return CallOutcome::kAborted;
    case DecodeStatus::kFailed:
      ++counters_.n_failed;
      return CallOutcome::kFailed;
  }
  throw std::logic_error("unknown decode status");
}

DecodeStatus CallExecutor::decode(const CallPlan& call, std::int32_t n_pad) {
  const BatchView batch = builder_.build(call, n_pad);
  ShapeSum sum;
  for (const PlannedRequest& item : call.items) {
    sum.add(item.begin, item.end - item.begin);
    sum.draft(item.begin, item.n_drafted);
  }
  sum.pad(n_pad);
  const std::int32_t n_decode_rows = sum.n_decode_rows();
  const std::int32_t n_prefill_rows = call.n_rows - call.n_drafted - n_decode_rows;
  const std::int32_t n_cells_used = c_.cache.n_cells_used();
  const double predicted_ns = c_.costs.measured() ? c_.costs.call_ns(sum.shape(n_cells_used)) : 0;
  c_.backend.use_threads(thread_count_.n_threads());
  const std::int64_t begin_ns = c_.clock.now_ns();
  c_.accounting.spend_all(TimeCategory::kEngine, begin_ns);
  c_.watchdog.call_begins(begin_ns, predicted_ns, n_decode_rows, n_prefill_rows);
  const DecodeStatus status = decode_on_backend(batch);
  const std::int64_t end_ns = c_.clock.now_ns();
  const std::int64_t spent_ns = end_ns - begin_ns;
  c_.watchdog.call_ends(end_ns, status == DecodeStatus::kOk);
  c_.accounting.account_for(call, end_ns);
  c_.trace.called({begin_ns, end_ns, predicted_ns, n_decode_rows, n_prefill_rows, n_pad,
                   static_cast<std::int32_t>(c_.scheduler.queue().size()), n_cells_used});
  if (n_pad > 0) c_.backend.remove(c_.backend.info().pad_seq, 0, kToEnd);
  if (learns_ && status == DecodeStatus::kOk) {
    learn(call, sum.shape(n_cells_used), predicted_ns, static_cast<double>(spent_ns));
  }
  counters_.n_padding_rows += n_pad;
  if (n_decode_rows > 0) {
    ++counters_.n_decode_calls;
    counters_.decode_ns += spent_ns;
  } else {
    ++counters_.n_prefill_calls;
    counters_.prefill_ns += spent_ns;
  }
  counters_.n_decode_rows += n_decode_rows;
  counters_.n_prefill_rows += n_prefill_rows;
  counters_.n_drafted += call.n_drafted;
  return status;
}

DecodeStatus CallExecutor::decode_on_backend(const BatchView& batch) {
  failure_ = "the decode call failed";
  try {
    return c_.backend.decode(batch);
  } catch (const std::exception& error) {
    failure_ = std::string("the decode call failed: ") + error.what();
    return DecodeStatus::kFailed;
  }
}

void CallExecutor::learn(const CallPlan& call, const CallShape& shape, double predicted_ns,
                         double spent_ns) {
  const bool is_draft =
      call.n_drafted > 0 && c_.scheduler.observe_draft(call.n_rows, spent_ns / predicted_ns);
  if (is_draft) return;
  if (predicted_ns > 0) thread_count_.observe(spent_ns * c_.costs.pace() / predicted_ns);
  c_.costs.observe(shape, spent_ns);
}

bool CallExecutor::sample(const CallPlan& call) {
  const std::int64_t begin_ns = c_.clock.now_ns();
  const auto ends_prompt = [](const PlannedRequest& item) {
    const Request& request = *item.request;
    return item.logits_row >= 0 && item.end == request.n_prompt() && request.cache_space;
  };
  for (const PlannedRequest& item : call.items) {  // sampling may overwrite the rows
    if (!ends_prompt(item)) continue;
    const Request& request = *item.request;
    c_.prompt_logits.put(*request.cache_space, request.tokens(),
                         c_.backend.logits(item.logits_row));
  }
  c_.sampler.sample_call(call, c_.backend, sampled_);
  bool any_poisoned = false;
  for (std::size_t i = 0; i < sampled_.size(); ++i) {
    if (!sampled_[i].poisoned) continue;
    if (ends_prompt(call.items[i])) c_.prompt_logits.clear();
    ++counters_.n_poisoned_rows;
    any_poisoned = true;
  }
  const std::int64_t end_ns = c_.clock.now_ns();
  counters_.sample_ns += end_ns - begin_ns;
  c_.accounting.spend_all(TimeCategory::kSampling, end_ns);
  return any_poisoned;
}

/// Makes the tokens of the committed call available to other requests.
void CallExecutor::publish(const CallPlan& call) {
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    if (sampled_[i].poisoned) continue;
    const Request& request = *call.items[i].request;
    const Pos n = request.kv_len();
    const bool at_boundary = n == request.n_prompt() || request.admission.cuts.contains(n);
    c_.cache.publish(request.seq(), request.tokens().first(n), at_boundary,
                     c_.operations.pending());
  }
  c_.operations.apply();
}

void CallExecutor::deliver(const CallPlan& call, std::vector<Delta>& out) {
  const std::int64_t now = c_.clock.now_ns();
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    c_.delivery.deliver(*call.items[i].request, sampled_[i], now, out);
  }
}

}  // namespace llamaherd

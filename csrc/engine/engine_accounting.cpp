#include "engine/engine_accounting.h"

#include <algorithm>

namespace llamaherd {
namespace {

constexpr double kMeanRate = 0.1;

/// Exponential moving average, initialized with the first value.
void learn(double& mean, double value) { mean += (mean == 0 ? 1 : kMeanRate) * (value - mean); }

}  // namespace

QueueForecast EngineAccounting::forecast() const {
  const std::int64_t now = clock_.now_ns();
  std::vector<Remaining> running;
  for (const auto& r : scheduler_.running()) {
    running.push_back({r->n_pending(), lengths_.expected_left(r->n_output(), r->max_tokens()),
                       static_cast<double>(r->queue_entry.key.deadline_ns - now)});
  }
  QueueForecast::Pace pace{costs_.mean_step_ns(), mean_prefill_rows_, mean_request_ns_, 0};
  if (pace.request_ns == 0) pace.request_ns = kDefaultMaxTokens * costs_.costs().step_ns;
  // The time since the last shed request is a lower bound of the present interval.
  if (mean_shed_gap_ns_ > 0) {
    pace.shed_gap_ns = std::max(mean_shed_gap_ns_, static_cast<double>(now - last_shed_ns_));
  }
  return {running, pace};
}

void EngineAccounting::observe_step(std::int64_t n_prefill_rows) {
  learn(mean_prefill_rows_, static_cast<double>(n_prefill_rows));
}

Watchdog::Load EngineAccounting::load() const {
  return {static_cast<std::int32_t>(scheduler_.running().size()),
          static_cast<std::int32_t>(scheduler_.queue().size()), cache_.n_cells_used(),
          backend_.n_ctx};
}

void EngineAccounting::observe_shed(const Request& request, std::int64_t now) {
  if (request.seq() == kNoSeq) {
    if (last_shed_ns_ != 0) learn(mean_shed_gap_ns_, static_cast<double>(now - last_shed_ns_));
    last_shed_ns_ = now;
  }
  counters_.n_shed += request.n_output() == 0 && request.n_computed() == 0;
}

void EngineAccounting::spend_all(TimeCategory kind, std::int64_t now) {
  for (const auto& request : scheduler_.running()) request->spend(kind, now);
}

void EngineAccounting::account_for(const CallPlan& call, std::int64_t now) {
  ShapeSum all, decode;
  for (const PlannedRequest& item : call.items) {
    all.add(item.begin, item.end - item.begin);
    if (item.request->decodes()) decode.add(item.begin, 1);
  }
  const std::int32_t n_cells = cache_.n_cells_used();
  const std::int32_t n_decode = decode.n_decode_rows();
  const std::int32_t n_prefill = call.n_rows - call.n_drafted - n_decode;
  double decode_share = n_prefill == 0 ? 1 : 0;
  if (n_decode > 0 && n_prefill > 0) {
    const double alone_ns = costs_.call_ns(decode.shape(n_cells));
    decode_share = std::min(1.0, alone_ns / costs_.call_ns(all.shape(n_cells)));
  }
  for (const PlannedRequest& item : call.items) {
    Request& r = *item.request;
    if (r.decodes()) {
      r.spend(
          {{TimeCategory::kOthersPrefill, 1 - decode_share}, {TimeCategory::kDecode, decode_share}},
          now);
      continue;
    }
    const double own_share =
        (1 - decode_share) * (item.end - item.begin) / static_cast<double>(n_prefill);
    r.spend({{TimeCategory::kOthersDecode, decode_share},
             {TimeCategory::kOthersPrefill, 1 - decode_share - own_share},
             {item.begin < r.n_computed() ? TimeCategory::kPrefillAgain : TimeCategory::kPrefill,
              own_share}},
            now);
  }
  for (const auto& r : scheduler_.running()) {
    const TimeCategory others = r->decodes() ? TimeCategory::kDecode : TimeCategory::kOthersDecode;
    r->spend({{TimeCategory::kOthersPrefill, 1 - decode_share}, {others, decode_share}}, now);
  }
}

void EngineAccounting::finished(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      ++counters_.n_finished_stop;
      break;
    case FinishReason::kLength:
      ++counters_.n_finished_length;
      break;
    case FinishReason::kCancelled:
      ++counters_.n_finished_cancelled;
      break;
    case FinishReason::kDeadline:
      ++counters_.n_finished_deadline;
      break;
    case FinishReason::kError:
      ++counters_.n_finished_error;
      break;
  }
}

void EngineAccounting::completed(const Request& request, FinishReason reason, double request_ns) {
  lengths_.finished(request.n_output(), request.max_tokens());
  learn(mean_request_ns_, request_ns);
  finished(reason);
}

Metrics EngineAccounting::metrics() const {
  Metrics m = counters_;
  m.n_running = static_cast<std::int32_t>(scheduler_.running().size());
  m.n_waiting = static_cast<std::int32_t>(scheduler_.queue().size());
  m.n_preempted = scheduler_.n_preempted();
  m.slowdown_ratio = costs_.pace();
  m.prefill_budget_ns = static_cast<std::int64_t>(scheduler_.prefill_budget_ns());
  m.n_seqs = backend_.n_seqs;
  m.n_cells = backend_.n_ctx;
  m.n_cells_used = cache_.n_cells_used();
  m.n_cells_reserved = cache_.n_cells_needed() + scheduler_.n_cells_promised();
  cache_.fill(m.cache);
  m.cache.n_looked_up = scheduler_.n_looked_up();
  m.cache.n_followers = scheduler_.n_followers();
  m.cache.follower_wait_ns = scheduler_.follower_wait_ns();
  return m;
}

}  // namespace llamaherd

// The part of Engine that keeps accounts: what time went into, how often what happened, how it
// stands.

#include <algorithm>

#include "engine/engine.h"

namespace llamaherd {
namespace {

constexpr double kMeanRate = 0.1;

/// The first value is believed.
void learn(double& mean, double value) { mean += (mean == 0 ? 1 : kMeanRate) * (value - mean); }

}  // namespace

/// Keeps the means that forecasts are made of. Prefill alone takes larger chunks.
void Engine::watch_step(std::int64_t begin_ns, std::int64_t n_prefill_rows, bool any_decode) {
  if (!learns_ || !any_decode) return;
  costs_.observe_step(static_cast<double>(clock_.now_ns() - begin_ns));
  learn(mean_prefill_rows_, static_cast<double>(n_prefill_rows));
}

void Engine::report_load() {
  watchdog_.loads(clock_.now_ns(), {static_cast<std::int32_t>(scheduler_.running().size()),
                                    static_cast<std::int32_t>(scheduler_.queue().size()),
                                    cache_->n_cells_used(), backend_.info().n_ctx});
}

QueueForecast Engine::forecast() const {
  const std::int64_t now = clock_.now_ns();
  std::vector<Remaining> running;
  for (const auto& r : scheduler_.running()) {
    running.push_back({r->n_pending(), lengths_.expected_left(r->n_output(), r->max_tokens()),
                       static_cast<double>(r->queue_entry.key.deadline_ns - now)});
  }
  QueueForecast::Pace pace{costs_.mean_step_ns(), mean_prefill_rows_, mean_request_ns_, 0};
  if (pace.request_ns == 0) pace.request_ns = kDefaultMaxTokens * costs_.costs().step_ns;
  // If none was given up for longer than usual, that is the gap by now.
  if (mean_shed_gap_ns_ > 0) {
    pace.shed_gap_ns = std::max(mean_shed_gap_ns_, static_cast<double>(now - last_shed_ns_));
  }
  return {running, pace};
}

/// What can no longer be of use to who asked.
void Engine::end_overdue(std::int64_t now, std::vector<Delta>& out) {
  while (Request* request = scheduler_.overdue(now)) {
    if (request->seq() == kNoSeq) {
      if (last_shed_ns_ != 0) learn(mean_shed_gap_ns_, static_cast<double>(now - last_shed_ns_));
      last_shed_ns_ = now;
    }
    metrics_.n_shed += request->n_output() == 0 && request->n_computed() == 0;
    end(*request, FinishReason::kDeadline, "", out);
  }
}

void Engine::spend_all(TimeCategory kind, std::int64_t now) {
  for (const auto& request : scheduler_.running()) request->spend(kind, now);
}

/// What the call that has just ended was to everybody who runs.
void Engine::account_for(const CallPlan& call, std::int64_t now) {
  ShapeSum all, decode;
  for (const PlannedRequest& item : call.items) {
    all.add(item.begin, item.end - item.begin);
    if (item.request->decodes()) decode.add(item.begin, 1);
  }
  const std::int32_t n_cells = cache_->n_cells_used();
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

void Engine::count_finish(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      ++metrics_.n_finished_stop;
      break;
    case FinishReason::kLength:
      ++metrics_.n_finished_length;
      break;
    case FinishReason::kCancelled:
      ++metrics_.n_finished_cancelled;
      break;
    case FinishReason::kDeadline:
      ++metrics_.n_finished_deadline;
      break;
    case FinishReason::kError:
      ++metrics_.n_finished_error;
      break;
  }
}

Metrics Engine::metrics() const {
  Metrics m = metrics_;
  m.n_running = static_cast<std::int32_t>(scheduler_.running().size());
  m.n_waiting = static_cast<std::int32_t>(scheduler_.queue().size());
  m.n_preempted = scheduler_.n_preempted();
  m.n_mask_waits = sampler_.n_waits();
  m.mask_wait_ns = sampler_.wait_ns();
  m.slowdown_ratio = costs_.pace();
  m.n_threads = governor_.n_threads();
  m.prefill_budget_ns = static_cast<std::int64_t>(scheduler_.prefill_budget_ns());
  m.n_seqs = pool_.n_seqs();
  m.n_cells = backend_.info().n_ctx;
  m.n_cells_used = cache_->n_cells_used();
  m.n_cells_reserved = cache_->n_cells_needed() + scheduler_.n_cells_promised();
  cache_->fill(m.cache);
  m.cache.n_looked_up = scheduler_.n_looked_up();
  m.cache.n_followers = scheduler_.n_followers();
  m.cache.follower_wait_ns = scheduler_.follower_wait_ns();
  return m;
}

/// Learns from a request that has come to its end.
void Engine::watch_end(const Request& request, double request_ns) {
  lengths_.finished(request.n_output(), request.max_tokens());
  learn(mean_request_ns_, request_ns);
}

}  // namespace llamaherd

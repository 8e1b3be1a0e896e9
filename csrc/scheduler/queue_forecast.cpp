#include "scheduler/queue_forecast.h"

#include <algorithm>
#include <cmath>

namespace llamaherd {
namespace {

constexpr double kShareRate = 0.05;

}  // namespace

QueueForecast::QueueForecast(const std::vector<Remaining>& running, const Pace& pace)
    : request_ns_(pace.request_ns) {
  if (pace.step_ns <= 0) return;
  double n_prefill_ahead = 0;
  for (const Remaining& r : running) {
    double n_steps = r.n_output;
    if (r.n_prefill > 1) {
      n_prefill_ahead += r.n_prefill;
      n_steps += std::ceil(n_prefill_ahead / std::max(pace.n_step_prefill, 1.0)) - 1;
    }
    fewer_ns_.push_back(std::min(pace.step_ns * n_steps, r.deadline_ns));
  }
  // Which request will miss a deadline is unknown; the mean interval between misses is known.
  if (pace.shed_gap_ns > 0) {
    for (std::size_t i = running.size(); i > 0; --i) {
      fewer_ns_.push_back(static_cast<double>(i) * pace.shed_gap_ns);
    }
  }
  // No place becomes free before the end of the current step.
  for (double& ns : fewer_ns_) ns = std::max(ns, pace.step_ns);
  std::ranges::sort(fewer_ns_);
}

double QueueForecast::until_fewer_wait_ns(std::int32_t n) const {
  if (fewer_ns_.empty()) return request_ns_;
  // Requests that start then end as well: the pattern repeats after each round.
  const auto n_round = static_cast<std::int32_t>(fewer_ns_.size());
  const std::int32_t n_rounds = (n - 1) / n_round;
  return n_rounds * fewer_ns_.back() + fewer_ns_[(n - 1) % n_round];
}

void OutputLengths::finished(std::int32_t n_output, std::int32_t max_tokens) {
  share_ += kShareRate * (static_cast<double>(n_output) / max_tokens - share_);
}

std::int32_t OutputLengths::expected_left(std::int32_t n_output, std::int32_t max_tokens) const {
  const auto expected = static_cast<std::int32_t>(std::lround(share_ * max_tokens));
  if (n_output < expected) return expected - n_output;
  return std::max(1, (max_tokens - n_output) / 2);
}

}  // namespace llamaherd

#include "forecast.h"

#include <algorithm>
#include <cmath>

namespace llamaherd {
namespace {

constexpr double kShareRate = 0.05;

}  // namespace

Forecast::Forecast(const std::vector<Remaining>& remaining, double step_ns, double n_step_prefill,
                   double request_ns)
    : request_ns_(request_ns) {
  double n_prefill_ahead = 0;
  for (const Remaining& r : remaining) {
    double n_steps = r.n_output;
    if (r.n_prefill > 1) {
      n_prefill_ahead += r.n_prefill;
      n_steps += std::ceil(n_prefill_ahead / std::max(n_step_prefill, 1.0)) - 1;
    }
    ends_ns_.push_back(step_ns * n_steps);
  }
  std::ranges::sort(ends_ns_);
}

double Forecast::until_started_ns(std::int32_t n) const {
  if (ends_ns_.empty()) return request_ns_;
  // Who starts then ends, too: the same again after each round.
  const auto n_running = static_cast<std::int32_t>(ends_ns_.size());
  const std::int32_t n_rounds = (n - 1) / n_running;
  return n_rounds * ends_ns_.back() + ends_ns_[(n - 1) % n_running];
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

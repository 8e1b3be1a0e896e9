#include "cost/decode_batching.h"

#include <algorithm>
#include <limits>

namespace llamaherd {
namespace {

// Smaller gains are within the prediction error.
constexpr double kLeastGain = 0.97;

}  // namespace

void DecodeBatching::keep_up(const CostModel& model) {
  if (version_ == model.version()) return;
  solve(model);
  version_ = model.version();
}

std::int32_t DecodeBatching::most_productive(std::int32_t n, const CostModel& model) {
  keep_up(model);
  return most_productive_[n];
}

std::span<const DecodeBatch> DecodeBatching::of(std::int32_t n, const CostModel& model) {
  keep_up(model);
  batching_.clear();
  while (n > 0) {
    batching_.push_back(first_[n]);
    n -= first_[n].n_rows;
  }
  std::ranges::sort(batching_, std::greater(), &DecodeBatch::n_rows);
  return batching_;
}

void DecodeBatching::solve(const CostModel& model) {
  alone_ns_.assign(n_max_ + 1, 0);
  n_pad_.assign(n_max_ + 1, 0);
  ns_.assign(n_max_ + 1, 0);
  first_.assign(n_max_ + 1, {});
  const auto rows_ns = [&](std::int32_t n) { return model.call_ns({n}); };
  for (std::int32_t n = 1; n <= n_max_; ++n) {
    alone_ns_[n] = rows_ns(n);
    for (std::int32_t pad = 1; pad <= kMaxPad && n + pad <= n_padded_max_; ++pad) {
      const double padded_ns = rows_ns(n + pad);
      if (padded_ns >= kLeastGain * alone_ns_[n]) continue;
      alone_ns_[n] = padded_ns;
      n_pad_[n] = pad;
    }
    ns_[n] = alone_ns_[n];
    first_[n] = {n, n_pad_[n]};
    for (std::int32_t k = 1; k < n; ++k) {
      const double split_ns = alone_ns_[k] + ns_[n - k];
      if (split_ns >= kLeastGain * ns_[n]) continue;
      ns_[n] = split_ns;
      first_[n] = {k, n_pad_[k]};
    }
  }
  most_productive_.assign(n_max_ + 1, 1);
  std::int32_t best = 1;
  for (std::int32_t n = 1; n <= n_max_; ++n) {
    if (ns_[n] / n <= ns_[best] / best) best = n;
    most_productive_[n] = ns_[best] / best < kLeastGain * ns_[n] / n ? best : n;
  }
}

}  // namespace llamaherd

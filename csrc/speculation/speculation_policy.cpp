#include "speculation/speculation_policy.h"

#include <algorithm>

namespace llamaherd {
namespace {

// A small rate: a short run of accepted tokens must not raise the estimate much.
constexpr double kWeight = 0.05;  // of the latest token
// Least throughput of each request, relative to a call without draft tokens.
constexpr double kLeastShare = 0.98;
// Rate at which the learned slowdown decays, so that rejected call sizes are tried again.
constexpr double kRelaxation = 1e-4;

}  // namespace

void AcceptanceTracker::observe(std::int32_t n_judged, std::int32_t n_accepted) {
  for (std::int32_t i = 0; i < n_accepted; ++i) acceptance_ += kWeight * (1 - acceptance_);
  if (n_accepted < n_judged) acceptance_ -= kWeight * acceptance_;
}

bool SpeculationPolicy::observe(std::int32_t n_rows, double ratio) {
  constexpr double kWeightOfCall = 0.1, kLeast = 0.8, kMost = 4;
  if (n_rows <= n_known_) return false;
  pace_ += kWeightOfCall * (std::clamp(ratio, kLeast, kMost) - pace_);
  return true;
}

std::span<const std::int32_t> SpeculationPolicy::choose(std::span<const DraftCandidate> candidates,
                                                        const ShapeSum& decode,
                                                        std::int32_t n_cells_used,
                                                        std::int32_t n_most,
                                                        const CostModel& model) {
  chosen_.clear();
  tried_.clear();
  for (const DraftCandidate& c : candidates) {
    if (c.n_guessed == 0) n_most = std::min(n_most, n_known_ - decode.n_rows());
    tried_.push_back({0, c.n_guessed > 0 ? c.acceptance : 0, 1});
  }
  const double alone_ns = model.call_ns(decode.shape(n_cells_used));
  auto n_tokens = static_cast<double>(candidates.size());
  double best = kLeastGain * n_tokens / alone_ns;
  ShapeSum sum = decode;
  for (std::int32_t k = 0; k < n_most; ++k) {
    const auto next = std::ranges::max_element(tried_, {}, &Tried::gain);
    if (next->gain <= 0) break;
    const DraftCandidate& candidate = candidates[next - tried_.begin()];
    n_tokens += next->gain;
    next->n_tokens += next->gain;
    next->gain = ++next->n_rows < candidate.n_guessed ? next->gain * candidate.acceptance : 0;
    sum.draft(candidate.begin, 1);
    const double ns =
        model.call_ns(sum.shape(n_cells_used)) * (sum.n_rows() > n_known_ ? pace_ : 1);
    const double least = std::ranges::min_element(tried_, {}, &Tried::n_tokens)->n_tokens;
    if (n_tokens / ns <= best || least / ns < kLeastShare / alone_ns) continue;
    best = n_tokens / ns;
    chosen_.clear();
    for (const Tried& tried : tried_) chosen_.push_back(tried.n_rows);
  }
  if (chosen_.empty()) pace_ -= kRelaxation * (pace_ - 1);
  return chosen_;
}

}  // namespace llamaherd

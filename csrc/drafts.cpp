#include "drafts.h"

#include <algorithm>
#include <cmath>

namespace llamaherd {
namespace {

constexpr double kWeight = 0.15;  // of the latest token
constexpr double kRecovery = 1.01;
constexpr double kRetried = 0.5;  // up to here it recovers
// Requests without guesses wait for the others' rows: no more than so much longer.
constexpr double kMostSlower = 1.25;

}  // namespace

void DraftRecord::observe(std::int32_t n_drafted, std::int32_t n_accepted) {
  for (std::int32_t i = 0; i < n_accepted; ++i) acceptance_ += kWeight * (1 - acceptance_);
  if (n_accepted < n_drafted) acceptance_ -= kWeight * acceptance_;
}

void DraftRecord::passed_over() {
  if (acceptance_ < kRetried) acceptance_ = std::min(kRetried, acceptance_ * kRecovery);
}

void choose_drafts(std::span<const DraftCandidate> candidates, const CallShape& decode,
                   std::int32_t n_most, const CostModel& model, std::vector<std::int32_t>& n) {
  n.assign(candidates.size(), 0);
  std::vector<std::int32_t> tried(candidates.size(), 0);
  const auto gain = [&](std::size_t i) {  // of the candidate's next row
    const DraftCandidate& c = candidates[i];
    return tried[i] < c.n_guessed ? std::pow(c.acceptance, tried[i] + 1) : 0;
  };
  const bool any_without =
      std::ranges::any_of(candidates, [](const DraftCandidate& c) { return c.n_guessed == 0; });
  const double alone_ns = model.call_ns(decode);
  double n_tokens = static_cast<double>(candidates.size());
  double best = kLeastGain * n_tokens / alone_ns;
  CallShape shape = decode;
  for (std::int32_t k = 0; k < n_most; ++k) {
    std::size_t next = 0;
    for (std::size_t i = 1; i < candidates.size(); ++i) {
      if (gain(i) > gain(next)) next = i;
    }
    if (gain(next) <= 0) return;
    n_tokens += gain(next);
    ++tried[next];
    ++shape.n_rows;
    const double ns = model.call_ns(shape);
    if (any_without && ns > kMostSlower * alone_ns) return;
    if (n_tokens / ns <= best) continue;
    best = n_tokens / ns;
    n = tried;
  }
}

}  // namespace llamaherd

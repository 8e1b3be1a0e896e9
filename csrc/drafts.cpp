#include "drafts.h"

#include <algorithm>
#include <cmath>

namespace llamaherd {
namespace {

// Slow: by a lucky streak guesses would look better than they are.
constexpr double kWeight = 0.05;  // of the latest token
constexpr double kRecovery = 1.01;
constexpr double kRetried = 0.5;  // up to here it recovers
// Of the tokens that each request would get in the time without anybody's guesses.
constexpr double kLeastShare = 0.98;

}  // namespace

void DraftRecord::observe(std::int32_t n_drafted, std::int32_t n_accepted) {
  for (std::int32_t i = 0; i < n_accepted; ++i) acceptance_ += kWeight * (1 - acceptance_);
  if (n_accepted < n_drafted) acceptance_ -= kWeight * acceptance_;
}

void DraftRecord::passed_over() {
  if (acceptance_ < kRetried) acceptance_ = std::min(kRetried, acceptance_ * kRecovery);
}

void DraftPace::observe(double ratio) {
  constexpr double kWeightOfCall = 0.1, kMost = 4;
  factor_ += kWeightOfCall * (std::min(ratio, kMost) - factor_);
  factor_ = std::max(factor_, 1.0);
}

void DraftPace::passed_over() {
  constexpr double kRelaxation = 1e-4;
  factor_ -= kRelaxation * (factor_ - 1);
}

void choose_drafts(std::span<const DraftCandidate> candidates, const CallShape& decode,
                   std::int32_t n_most, const CostModel& model, std::int32_t n_seqs, double pace,
                   std::vector<std::int32_t>& n) {
  n.assign(candidates.size(), 0);
  std::vector<std::int32_t> tried(candidates.size(), 0);
  const bool all_guess =
      std::ranges::all_of(candidates, [](const DraftCandidate& c) { return c.n_guessed > 0; });
  if (!all_guess) n_most = std::min(n_most, n_seqs - decode.n_rows);
  const auto gain = [&](std::size_t i) {  // of the candidate's next row
    const DraftCandidate& c = candidates[i];
    return tried[i] < c.n_guessed ? std::pow(c.acceptance, tried[i] + 1) : 0;
  };
  std::vector<double> gained(candidates.size(), 1);  // tokens of each
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
    gained[next] += gain(next);
    ++tried[next];
    ++shape.n_rows;
    const bool is_large = shape.n_rows > n_seqs;
    const double ns = model.call_ns(shape) * (is_large ? pace : 1);
    const double least = *std::ranges::min_element(gained);
    if (n_tokens / ns <= best || least / ns < kLeastShare / alone_ns) continue;
    best = n_tokens / ns;
    n = tried;
  }
}

}  // namespace llamaherd

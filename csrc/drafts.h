#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cost_model.h"
#include "types.h"

namespace llamaherd {

/// How well one request's guesses have done of late.
class DraftRecord {
 public:
  /// The chance that the next guessed token is right, if all before it are.
  double acceptance() const { return acceptance_; }

  /// So many were computed, and the first n_accepted of them were right.
  void observe(std::int32_t n_drafted, std::int32_t n_accepted);

  /// There were guesses, which were not worth their rows. It comes to be tried again.
  void passed_over();

 private:
  double acceptance_ = 0.5;
};

/// How much longer calls of more rows than requests can run take with guesses than the cost model
/// says: there its curve is that of prompts, and of guesses every row computes logits.
class DraftPace {
 public:
  double factor() const { return factor_; }

  /// Such a call took so many times what was predicted.
  void observe(double ratio);

  /// There were guesses and no call with them. They come to be tried again.
  void passed_over();

 private:
  double factor_ = 1.25;
};

/// A request whose next token is computed in a call, as far as drafting depends on it.
struct DraftCandidate {
  std::int32_t n_guessed = 0;  // tokens guessed behind its next row
  double acceptance = 0;
};

/// How many of its guesses each candidate should have computed in the call: so many rows that the
/// tokens gained for the time are most, by at least kLeastGain, and that nobody is slowed down by
/// the guesses of others; none otherwise. `decode` is the call's shape without them, n_most how
/// many rows it can take beside; of more than n_seqs rows, which only guesses of all make worth it,
/// it takes `pace` times what is predicted. n[i] is of candidates[i].
void choose_drafts(std::span<const DraftCandidate> candidates, const CallShape& decode,
                   std::int32_t n_most, const CostModel& model, std::int32_t n_seqs, double pace,
                   std::vector<std::int32_t>& n);

inline constexpr double kLeastGain = 1.05;
inline constexpr std::int32_t kMostDrafted = 15;  // of one request in one call

}  // namespace llamaherd

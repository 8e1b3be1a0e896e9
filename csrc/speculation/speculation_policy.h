#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/types.h"
#include "cost/cost_model.h"

namespace llamaherd {

/// How well one request's draft_tokens have done of late.
class AcceptanceTracker {
 public:
  /// The chance that the next guessed token is right, if all before it are.
  double acceptance() const { return acceptance_; }

  /// So many could be judged, and the first n_accepted of them were right. (Those of computed rows,
  /// or without any the first, once the next token is known.)
  void observe(std::int32_t n_judged, std::int32_t n_accepted);

 private:
  double acceptance_ = 0.5;
};

/// A request whose next token is computed in a call, as far as drafting depends on it.
struct DraftCandidate {
  std::int32_t n_guessed = 0;  // tokens guessed behind its next row
  double acceptance = 0;
  Pos begin = 0;  // tokens before its next row
};

/// How many of its draft_tokens each request of a call should have computed with its next token.
class SpeculationPolicy {
 public:
  /// Beyond n_known rows the cost model's curve is that of prompts, while of draft_tokens every row
  /// computes logits: how much longer such calls take is learned.
  explicit SpeculationPolicy(std::int32_t n_known) : n_known_(n_known) {}

  /// So many rows of each candidate that the tokens gained for the time are most, by at least
  /// kLeastGain, and that nobody is slowed down by the draft_tokens of others; empty: none is worth
  /// it. `decode` is the call without them, n_most how many rows it can take beside; more than
  /// n_known rows in all are tried only if everybody draft_tokens. Valid until the next call.
  std::span<const std::int32_t> choose(std::span<const DraftCandidate> candidates,
                                       const ShapeSum& decode, std::int32_t n_cells_used,
                                       std::int32_t n_most, const CostModel& model);

  /// A call of so many rows with draft_tokens took so many times what was predicted. False, having
  /// learned nothing, if the cost model should know such calls.
  bool observe(std::int32_t n_rows, double ratio);

 private:
  struct Tried {
    std::int32_t n_rows;
    double gain;  // of its next row
    double n_tokens;
  };

  std::int32_t n_known_;
  double pace_ = 1.1;  // of calls of more rows
  std::vector<Tried> tried_;
  std::vector<std::int32_t> chosen_;
};

inline constexpr double kLeastGain = 1.05;
inline constexpr std::int32_t kMostDrafted = 15;  // of one request in one call

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/types.h"
#include "cost/cost_model.h"

namespace llamaherd {

/// Acceptance rate of one request's draft tokens.
class AcceptanceTracker {
 public:
  /// Probability that a draft token is accepted, given that all before it are.
  double acceptance() const { return acceptance_; }

  /// n_judged draft tokens were verified, and the first n_accepted of them accepted. (Verified are
  /// draft tokens with a computed row, or without any the first, once the next token is known.)
  void observe(std::int32_t n_judged, std::int32_t n_accepted);

 private:
  double acceptance_ = 0.5;
};

/// The properties of a decoding request that drafting depends on.
struct DraftCandidate {
  std::int32_t n_guessed = 0;  // available draft tokens
  double acceptance = 0;
  Pos begin = 0;  // tokens before its decode row
};

/// Chooses how many draft tokens of each request of a call are verified.
class SpeculationPolicy {
 public:
  /// Beyond n_known rows the cost model's curve is measured on prompts, with logits of the last row
  /// only, while each row of a draft token needs logits. The resulting slowdown is learned.
  explicit SpeculationPolicy(std::int32_t n_known) : n_known_(n_known) {}

  /// The number of draft rows of each candidate that maximizes the expected tokens per time, if the
  /// gain is at least kLeastGain and no request is slowed down by the rows of others; empty if
  /// there is no such choice. `decode` is the call without draft rows, n_most the number of rows
  /// that can be added. More than n_known rows in total are tried only if all candidates have draft
  /// tokens. Valid until the next call.
  std::span<const std::int32_t> choose(std::span<const DraftCandidate> candidates,
                                       const ShapeSum& decode, std::int32_t n_cells_used,
                                       std::int32_t n_most, const CostModel& model);

  /// A call of n_rows rows with draft tokens took `ratio` times its prediction. Returns false,
  /// without learning, if the cost model covers calls of this size.
  bool observe(std::int32_t n_rows, double ratio);

 private:
  struct Tried {
    std::int32_t n_rows;
    double gain;  // expected tokens of its next draft row
    double n_tokens;
  };

  std::int32_t n_known_;
  double pace_ = 1.1;  // slowdown of calls of more than n_known rows
  std::vector<Tried> tried_;
  std::vector<std::int32_t> chosen_;
};

inline constexpr double kLeastGain = 1.05;
inline constexpr std::int32_t kMostDrafted = 15;  // per request and call

}  // namespace llamaherd

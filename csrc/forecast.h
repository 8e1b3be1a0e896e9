#pragma once

#include <cstdint>
#include <vector>

namespace llamaherd {

/// What a running request has left to do.
struct Remaining {
  std::int32_t n_prefill = 0;  // tokens
  std::int32_t n_output = 0;   // expected
};

/// When running requests will have ended, as it looks between two steps. A value.
class Forecast {
 public:
  Forecast() = default;

  /// step_ns: mean time of a step now; n_step_prefill: prefill tokens of a step now; request_ns:
  /// what one request takes, for when none runs.
  Forecast(const std::vector<Remaining>& remaining, double step_ns, double n_step_prefill,
           double request_ns);

  /// Nanoseconds until n more requests can have been started, n >= 1, behind those who wait.
  double until_started_ns(std::int32_t n) const;

 private:
  std::vector<double> ends_ns_;  // ascending
  double request_ns_ = 0;
};

/// Learns which part of its max_tokens a request uses.
class OutputLengths {
 public:
  void finished(std::int32_t n_output, std::int32_t max_tokens);
  /// Tokens a request that has made n_output is expected to make yet, >= 1.
  std::int32_t expected_left(std::int32_t n_output, std::int32_t max_tokens) const;

 private:
  double share_ = 1;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace llamaherd {

/// What a running request has left to do.
struct Remaining {
  std::int32_t n_prefill = 0;                                    // tokens
  std::int32_t n_output = 0;                                     // expected
  double deadline_ns = std::numeric_limits<double>::infinity();  // from now
};

/// When places will have become free, as it looks between two steps. A value.
class QueueForecast {
 public:
  QueueForecast() = default;

  struct Pace {
    double step_ns = 0;         // mean time of a step now; 0: not known
    double n_step_prefill = 0;  // mean prefill tokens of a step now
    double request_ns = 0;      // what one request takes, for when no more is known
    double shed_gap_ns = 0;     // between two that are given up while they wait; 0: none are
  };

  QueueForecast(const std::vector<Remaining>& running, const Pace& pace);

  /// Nanoseconds until n requests fewer wait than now, n >= 1, if no others come.
  double until_fewer_wait_ns(std::int32_t n) const;

 private:
  std::vector<double> fewer_ns_;  // ascending: each time one fewer waits
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

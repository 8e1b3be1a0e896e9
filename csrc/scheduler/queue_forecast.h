#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace llamaherd {

/// Remaining work of a running request.
struct Remaining {
  std::int32_t n_prefill = 0;                                    // tokens
  std::int32_t n_output = 0;                                     // expected
  double deadline_ns = std::numeric_limits<double>::infinity();  // from now
};

/// Forecast of when places become free, as of the last step. A value type.
class QueueForecast {
 public:
  QueueForecast() = default;

  struct Pace {
    double step_ns = 0;         // mean duration of a step; 0: unknown
    double n_step_prefill = 0;  // mean prefill tokens of a step
    double request_ns = 0;      // mean duration of a request, used without other data
    double shed_gap_ns = 0;     // mean interval between waiting requests that are shed; 0: none are
  };

  QueueForecast(const std::vector<Remaining>& running, const Pace& pace);

  /// Nanoseconds until the number of waiting requests has fallen by n >= 1, without new arrivals.
  double until_fewer_wait_ns(std::int32_t n) const;

 private:
  std::vector<double> fewer_ns_;  // ascending: times at which the number falls by one
  double request_ns_ = 0;
};

/// Learns the mean ratio of output tokens to max_tokens.
class OutputLengths {
 public:
  void finished(std::int32_t n_output, std::int32_t max_tokens);
  /// Expected number of output tokens left after n_output, >= 1.
  std::int32_t expected_left(std::int32_t n_output, std::int32_t max_tokens) const;

 private:
  double share_ = 1;
};

}  // namespace llamaherd

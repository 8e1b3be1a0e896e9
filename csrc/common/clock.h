#pragma once

#include <chrono>
#include <cstdint>

namespace llamaherd {

/// Where the engine has its time from. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  /// Nanoseconds since some moment, the same for all calls. Never decreases.
  virtual std::int64_t now_ns() const = 0;
};

class SteadyClock final : public Clock {
 public:
  std::int64_t now_ns() const override {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
  }
};

inline const Clock& steady_clock() {
  static const SteadyClock clock;
  return clock;
}

}  // namespace llamaherd

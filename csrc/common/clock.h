#pragma once

#include <chrono>
#include <cstdint>

namespace llamaherd {

/// Time source of the engine. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  /// Nanoseconds since a fixed point. Monotonic.
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

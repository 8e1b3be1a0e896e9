#pragma once

#include <atomic>
#include <cstdint>

#include "common/clock.h"

namespace llamaherd {

/// Each look takes a nanosecond; all other time passes by advance().
class ManualClock final : public Clock {
 public:
  std::int64_t now_ns() const override { return ++now_ns_; }
  void advance(std::int64_t ns) { now_ns_ += ns; }

 private:
  mutable std::atomic<std::int64_t> now_ns_ = 1'000'000'000;
};

}  // namespace llamaherd

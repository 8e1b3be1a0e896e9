#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "common/clock.h"
#include "cost/cost_model.h"

namespace llamaherd {

struct CalibrationOptions {
  double budget_s = 2;  // or, for slow models, as long as n_steps calls of one row take
  std::int32_t n_steps = 12;
  const Clock& clock = steady_clock();
};

/// Runs each shape of decode call that the engine will use, so that the first user does not pay for
/// page faults, first allocations and sleeping threads, and measures what they cost: decode rows in
/// powers of two and prefill chunks first, then attention to a filled cache, then the numbers of
/// rows between and of draft_tokens, as far as the time allows. A call that is expected to end
/// after the time is not made. Leaves the cache empty. Throws ModelLoadError if a call fails.
Calibration calibrate(Backend& backend, const CalibrationOptions& options);

/// Only runs the first of these shapes once, where it is known what calls cost.
void warm_up(Backend& backend, const CalibrationOptions& options);

}  // namespace llamaherd

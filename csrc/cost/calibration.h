#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "common/clock.h"
#include "cost/cost_model.h"

namespace llamaherd {

struct CalibrationOptions {
  double budget_s = 2;  // at least n_steps calls of one row for slow models
  std::int32_t n_steps = 12;
  const Clock& clock = steady_clock();
};

/// Runs each shape of decode call that the engine will use, so that page faults, first allocations
/// and thread starts happen before the first request, and measures their costs. Order: decode rows
/// in powers of two and prefill chunks, attention to a filled cache, then the row counts in between
/// and rows of draft tokens, as far as the time allows. A call that is expected to exceed the time
/// is skipped. Leaves the cache empty. Throws ModelLoadError if a call fails.
Calibration calibrate(Backend& backend, const CalibrationOptions& options);

/// Runs the first of these shapes once. Used if the costs are known.
void warm_up(Backend& backend, const CalibrationOptions& options);

}  // namespace llamaherd

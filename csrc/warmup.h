#pragma once

#include <cstdint>

#include "backend.h"
#include "costs.h"

namespace llamaherd {

/// Runs each shape of decode call that the engine will use once, so that the first user does not
/// pay for page faults, first allocations and sleeping threads: decode rows in powers of two up to
/// all sequences, then a prefill chunk. Stops early where the next one is expected to take the
/// time beyond `budget_s` seconds. Leaves the cache empty. Returns what things cost, as far as the
/// time allowed to measure it. Throws ModelLoadError if a call fails.
Costs warm_up(Backend& backend, double budget_s);

}  // namespace llamaherd

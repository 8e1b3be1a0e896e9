#pragma once

#include <string>

#include "config/params.h"
#include "kernels/common/kernel_mode.h"

namespace llamaherd {

/// Which CPU kernels an engine of this (valid) config computes with: deterministic ones need the
/// reference; otherwise the environment's LLAMAHERD_CPU_KERNELS, then config.cpu_kernels decides.
/// Throws InvalidRequestError if the environment names none.
kernels::Mode choose_kernels(const EngineConfig& config);

/// Their name: stock, reference or, of the fast ones, the instruction set's.
std::string kernels_name(const EngineConfig& config);

}  // namespace llamaherd

#pragma once

#include <string>

#include "config/params.h"
#include "kernels/common/kernel_mode.h"

namespace llamaherd {

/// CPU kernels of an engine with this (valid) config: reference if deterministic, otherwise by the
/// environment variable LLAMAHERD_CPU_KERNELS, then by config.cpu_kernels. Throws
/// InvalidRequestError if the variable has an invalid value.
kernels::Mode choose_kernels(const EngineConfig& config);

/// Name of the kernels: stock, reference, or the instruction set of the fast kernels.
std::string kernels_name(const EngineConfig& config);

}  // namespace llamaherd

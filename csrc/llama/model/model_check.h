#pragma once

#include <cstdint>
#include <string>

struct llama_model;

namespace llamaherd {

/// Throws ModelLoadError if a loaded model's hyperparameters are inconsistent in ways that
/// llama.cpp would detect only during computation, on threads that cannot report errors.
void check_model(const llama_model& model);

/// Number of learned position vectors; 0: positions are computed.
std::int32_t n_positions(const llama_model& model);

}  // namespace llamaherd

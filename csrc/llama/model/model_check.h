#pragma once

#include <cstdint>
#include <string>

struct llama_model;

namespace llamaherd {

/// Throws ModelLoadError if a loaded model's hyperparameters do not go together: what llama.cpp
/// would find out only where it computes, on threads that cannot report it.
void check_model(const llama_model& model);

/// How many positions a model has learned, each its own vector; 0: it computes them.
std::int32_t n_positions(const llama_model& model);

}  // namespace llamaherd

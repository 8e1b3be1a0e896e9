#pragma once

#include <cstddef>
#include <functional>

namespace llamaherd {

/// Runs what llama.cpp does by recursion over values nested `n_levels` deep at most, with the stack
/// that takes. Throws what `work` throws, or LlamaHerdError if there is no room for it.
void run_nested(std::size_t n_levels, const std::function<void()>& work);

}  // namespace llamaherd

#pragma once

#include <cstddef>
#include <functional>

namespace llamaherd {

/// Runs recursive llama.cpp code on values nested at most `n_levels` deep, with a sufficient stack.
/// Throws what `work` throws, or LlamaHerdError if the stack cannot be allocated.
void run_nested(std::size_t n_levels, const std::function<void()>& work);

}  // namespace llamaherd

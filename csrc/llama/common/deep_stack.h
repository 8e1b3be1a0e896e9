#pragma once

#include <cstddef>
#include <functional>

namespace llamaherd {

/// Runs deeply recursive code on a thread with a stack of `n_bytes`, and waits for it. Only used
/// stack pages take memory. Throws what `work` throws, or LlamaHerdError if the stack cannot be
/// allocated.
void run_on_stack(std::size_t n_bytes, const std::function<void()>& work);

}  // namespace llamaherd

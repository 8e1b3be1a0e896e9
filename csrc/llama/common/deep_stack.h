#pragma once

#include <cstddef>
#include <functional>

namespace llamaherd {

/// Runs what recurses deeply on a thread with a stack of `n_bytes`, and waits for it. Of the stack
/// only what is used takes memory. Throws what `work` throws, or LlamaHerdError if there is no room
/// for such a stack.
void run_on_stack(std::size_t n_bytes, const std::function<void()>& work);

}  // namespace llamaherd

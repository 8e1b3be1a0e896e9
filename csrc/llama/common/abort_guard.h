#pragma once

#include <stdexcept>

namespace llamaherd {

/// An assertion of llama.cpp's or ggml's that failed on a thread with an AbortGuard.
struct AssertionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// While one lives on a thread, a failed assertion of llama.cpp or ggml on it throws AssertionError
/// instead of ending the process. Not for a graph that several threads compute: the others would
/// wait for this one for ever.
class AbortGuard {
 public:
  AbortGuard();
  ~AbortGuard();
  AbortGuard(const AbortGuard&) = delete;
  AbortGuard& operator=(const AbortGuard&) = delete;
};

/// From now on ggml neither starts a debugger nor prints frames: without a guard a failed assertion
/// prints one line to stderr and ends the process. Call it when the library is loaded.
void install_abort_handler();

}  // namespace llamaherd

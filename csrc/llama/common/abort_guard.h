#pragma once

#include <stdexcept>

namespace llamaherd {

/// A failed assertion of llama.cpp or ggml on a thread with an AbortGuard.
struct AssertionError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// While alive, a failed assertion of llama.cpp or ggml on this thread throws AssertionError
/// instead of terminating the process. Must not be used for graphs computed by several threads: the
/// others would wait forever.
class AbortGuard {
 public:
  AbortGuard();
  ~AbortGuard();
  AbortGuard(const AbortGuard&) = delete;
  AbortGuard& operator=(const AbortGuard&) = delete;
};

/// Disables ggml's debugger and stack traces: without a guard a failed assertion prints one line to
/// stderr and terminates the process. Call it when the library is loaded.
void install_abort_handler();

}  // namespace llamaherd

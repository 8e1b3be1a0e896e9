#include "llama/common/abort_guard.h"

#include <cstdio>
#include <exception>

#include "ggml.h"

namespace llamaherd {
namespace {

thread_local int n_guards = 0;

std::terminate_handler terminate_handler = nullptr;

// Runs before ggml's initialiser, which installs a handler that starts a debugger.
__attribute__((constructor(101))) void keep_terminate_handler() {
  terminate_handler = std::get_terminate();
}

// The C frames between here and the guard have unwind tables on all supported platforms.
void on_abort(const char* message) {
  if (n_guards > 0 && std::uncaught_exceptions() == 0) throw AssertionError(message);
  std::fprintf(stderr, "llamaherd: an assertion of llama.cpp failed, terminating: %s\n", message);
}

}  // namespace

AbortGuard::AbortGuard() { ++n_guards; }
AbortGuard::~AbortGuard() { --n_guards; }

void install_abort_handler() {
  std::set_terminate(terminate_handler);
  ggml_set_abort_callback(on_abort);
}

}  // namespace llamaherd

#include <signal.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "bindings/bindings.h"
#include "common/error.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace py = pybind11;

namespace llamaherd {
namespace {

void reset_at_signal(int number) {
  struct sigaction action {};
  bool ok = sigaction(number, nullptr, &action) == 0;
  action.sa_flags |= static_cast<int>(SA_RESETHAND);
  ok = ok && sigaction(number, &action, nullptr) == 0;
  if (!ok) {
    throw InvalidRequestError("cannot set the action of signal " + std::to_string(number) + ": " +
                              std::strerror(errno));
  }
}

void limit_malloc_arenas(int n) {
#ifdef __GLIBC__
  mallopt(M_ARENA_MAX, n);
#else
  static_cast<void>(n);
#endif
}

}  // namespace

void bind_process(py::module_& m) {
  m.def("reset_at_signal", &reset_at_signal, py::arg("number"), R"(
Reset the handler of a signal to the default action after the first signal (SA_RESETHAND). The
second SIGTERM or SIGINT then ends the process even if all its threads are blocked.

Raises:
  InvalidRequestError: The signal does not exist.
)");
  m.def("limit_malloc_arenas", &limit_malloc_arenas, py::arg("n"), R"(
Limit the number of malloc arenas of threads started from now on; glibc only. glibc's default is 8
per core. Each arena keeps memory that its threads freed, so that large requests accumulate memory
in several arenas.
)");
}

}  // namespace llamaherd

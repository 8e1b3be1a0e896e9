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
    throw InvalidRequestError("signal " + std::to_string(number) +
                              " cannot be set up: " + std::strerror(errno));
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
The first signal of this number goes to the handler that is installed; from then on the default
action is in force, which for SIGTERM and SIGINT ends the process. The kernel does both: it needs no
thread of the process.

Raises:
  InvalidRequestError: There is no such signal.
)");
  m.def("limit_malloc_arenas", &limit_malloc_arenas, py::arg("n"), R"(
Threads that are started from now on share at most n arenas of malloc, where that is glibc's. Its
default is eight for each core, of which each keeps what its threads once freed: large requests
then hold memory several times.
)");
}

}  // namespace llamaherd

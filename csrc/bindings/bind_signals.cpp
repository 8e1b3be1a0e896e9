#include <signal.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "bindings/bindings.h"
#include "common/error.h"

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

}  // namespace

void bind_signals(py::module_& m) {
  m.def("reset_at_signal", &reset_at_signal, py::arg("number"), R"(
The first signal of this number goes to the handler that is installed; from then on the default
action is in force, which for SIGTERM and SIGINT ends the process. The kernel does both: it needs no
thread of the process.

Raises:
  InvalidRequestError: There is no such signal.
)");
}

}  // namespace llamaherd

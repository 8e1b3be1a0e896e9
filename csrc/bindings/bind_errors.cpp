#include "bindings.h"
#include "error.h"

namespace py = pybind11;

namespace llamaherd {

void bind_errors(py::module_& m) {
  const auto doc = [](auto& error, const char* text) { error.attr("__doc__") = text; };
  // Registered base first: pybind11 tries translators in the reverse order.
  auto& base = py::register_exception<LlamaHerdError>(m, "LlamaHerdError", PyExc_RuntimeError);
  doc(base, "Base of all errors that llamaherd raises.");
  const py::tuple invalid_bases = py::make_tuple(base, py::handle(PyExc_ValueError));
  auto& invalid =
      py::register_exception<InvalidRequestError>(m, "InvalidRequestError", invalid_bases);
  doc(invalid, "A request or an option breaks a rule; the message states the rule and the value.");
  auto& load = py::register_exception<ModelLoadError>(m, "ModelLoadError", base);
  doc(load, "A model file cannot be used; the message says why.");
  auto& dead = py::register_exception<EngineDeadError>(m, "EngineDeadError", base);
  doc(dead, "The engine is closed, or stopped after a fatal error that the message names.");
}

}  // namespace llamaherd

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
  auto& not_generative = py::register_exception<NotGenerativeError>(m, "NotGenerativeError", load);
  doc(not_generative, "The model makes embeddings and no text.");
  static const py::handle queue_full =
      py::exception<QueueFullError>(m, "QueueFullError", base).release();
  queue_full.attr("__doc__") =
      "As many requests wait as may (max_queued, max_queued_tokens). retry_after_s: seconds after "
      "which an equal one is expected to find a place.";
  queue_full.attr("retry_after_s") = 0.0;
  py::register_exception_translator([](std::exception_ptr pending) {
    try {
      std::rethrow_exception(pending);
    } catch (const QueueFullError& error) {
      const py::object raised = queue_full(error.what());
      raised.attr("retry_after_s") = error.retry_after_s;
      PyErr_SetObject(queue_full.ptr(), raised.ptr());
    }
  });
  auto& dead = py::register_exception<EngineDeadError>(m, "EngineDeadError", base);
  doc(dead, "The engine is closed, or stopped after a fatal error that the message names.");
}

}  // namespace llamaherd

#include "bindings/bindings.h"
#include "bindings/values.h"
#include "common/error.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

// Set while the module is initialised; the module keeps the types alive.
struct ErrorTypes {
  py::handle base, invalid, context_length, load, not_generative, queue_full, dead;
} types;

py::handle add_type(py::module_& m, const char* name, const py::handle& bases, const char* doc) {
  const py::object type = py::exception<LlamaHerdError>(m, name, bases);
  type.attr("__doc__") = doc;
  return type.ptr();
}

void set_error(const py::handle& type, const LlamaHerdError& error) {
  PyErr_SetObject(type.ptr(), to_text(error.what()).ptr());
}

void translate(std::exception_ptr pending) {
  try {
    std::rethrow_exception(pending);
  } catch (const QueueFullError& error) {
    const py::object raised = types.queue_full(to_text(error.what()));
    raised.attr("retry_after_s") = error.retry_after_s;
    PyErr_SetObject(types.queue_full.ptr(), raised.ptr());
  } catch (const ContextLengthError& error) {
    const py::object raised = types.context_length(to_text(error.what()));
    raised.attr("n_prompt_tokens") = error.n_prompt_tokens;
    raised.attr("max_len") = error.max_len;
    PyErr_SetObject(types.context_length.ptr(), raised.ptr());
  } catch (const InvalidRequestError& error) {
    set_error(types.invalid, error);
  } catch (const NotGenerativeError& error) {
    set_error(types.not_generative, error);
  } catch (const ModelLoadError& error) {
    set_error(types.load, error);
  } catch (const EngineDeadError& error) {
    set_error(types.dead, error);
  } catch (const LlamaHerdError& error) {
    set_error(types.base, error);
  }
}

}  // namespace

void bind_errors(py::module_& m) {
  types.base =
      add_type(m, "LlamaHerdError", PyExc_RuntimeError, "Base class of llamaherd's errors.");
  types.invalid =
      add_type(m, "InvalidRequestError", py::make_tuple(types.base, py::handle(PyExc_ValueError)),
               "A request or an option is invalid; the message states the rule and the value.");
  types.context_length =
      add_type(m, "ContextLengthError", types.invalid,
               "A prompt or a text does not fit into the model's context. n_prompt_tokens: its "
               "tokens; a lower bound if its bytes alone show that it cannot fit, since it is then "
               "not tokenized. max_len: the most tokens of prompt and output together, or of a "
               "text to embed.");
  types.context_length.attr("n_prompt_tokens") = 0;
  types.context_length.attr("max_len") = 0;
  types.load = add_type(m, "ModelLoadError", types.base,
                        "A model file cannot be loaded; the message states the reason.");
  types.not_generative = add_type(m, "NotGenerativeError", types.load,
                                  "The model is an embedding model and cannot generate.");
  types.queue_full = add_type(m, "QueueFullError", types.base,
                              "The queue is full (max_queued, max_queued_tokens). retry_after_s: "
                              "estimated seconds until an equal request is accepted.");
  types.queue_full.attr("retry_after_s") = 0.0;
  types.dead =
      add_type(m, "EngineDeadError", types.base,
               "The engine is closed, or stopped after a fatal error, which the message states.");
  py::register_exception_translator(translate);
}

}  // namespace llamaherd

#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/py_engine.h"
#include "bindings/released_gil.h"

namespace py = pybind11;

namespace llamaherd {

void bind_engine(py::module_& m) {
  using release_gil = py::call_guard<ReleasedGil>;
  py::class_<PyBatchEngine>(m, "BatchEngine", "The core of llamaherd.BatchEngine.")
      .def(py::init([](const std::string& path, const EngineConfig& config, LoadProgress& progress,
                       bool threaded, std::optional<std::shared_ptr<LogitsRecord>> record,
                       std::optional<Calibration> calibration,
                       std::optional<std::shared_ptr<FaultScript>> faults) {
             return std::make_unique<PyBatchEngine>(
                 path, config, progress,
                 EngineInputs{.mode = threaded ? EngineThread::Mode::kThreaded
                                               : EngineThread::Mode::kStepped,
                              .calibration = std::move(calibration),
                              .record = record.value_or(nullptr),
                              .faults = faults.value_or(nullptr)});
           }),
           py::arg("path"), py::arg("config"), py::arg("progress"), py::arg("threaded"),
           py::arg("record") = py::none(), py::arg("calibration") = py::none(),
           py::arg("faults") = py::none(), R"pbdoc(
Load a model and start its engine.

Args:
  path: GGUF file; of a split one, the first part.
  config: Copied.
  progress: Watched and cancelled from other threads while this runs.
  threaded: False: no thread; the caller drives step().
  record: If given, notes every logits row. For tests.
  calibration: What calls cost, if that is known; else config.warmup says whether to measure it.
  faults: If given, what goes wrong in decode calls. For tests.

Raises:
  ModelLoadError: The file or the context cannot be used.
  InvalidRequestError: An option is out of range.

Thread safety:
  Releases the GIL while it loads.
)pbdoc")
      .def("submit", &PyBatchEngine::submit, py::arg("prompt"), py::arg("params"),
           py::arg("streamed") = true, py::arg("cache_space") = CacheNamespace{0},
           py::arg("scheduling") = SchedulingOptions{}, py::arg("mask") = py::none(),
           py::arg("triggers") = std::vector<std::string>{}, R"pbdoc(
Queue one prompt for generation and return at once. Its outputs (best_of, else n) are requests
with consecutive ids; they are let in together or not at all.

Args:
  prompt: Token ids, shape (n_prompt,), integers in [0, n_vocab). Copied.
  params: Not copied: nothing may change them afterwards.
  streamed: False: only the last delta comes out, with all tokens and text.
  cache_space: Prefixes are shared within a space only, in [0, 2**64). None: shares nothing and
    leaves nothing.
  scheduling: Copied.
  mask: Which tokens may be the first output: bit t % 32 of the 32-bit word t / 32 for token t.
    With it every further output token waits for its set_mask(). None: any.
  triggers: Texts, names of special tokens among them. Without mask, any token may be output until
    one of them stands there; from then on every token waits for its set_mask().

Returns:
  The first request's id, unique for the life of this engine.

Raises:
  InvalidRequestError: A rule is broken; the message states it and the value.
  TypeError: The ids are no integers.
  QueueFullError: As many wait as may.
  EngineDeadError: The engine is closed or stopped.

Thread safety:
  Any thread. Does not wait for a step.
)pbdoc")
      .def("set_mask", &PyBatchEngine::set_mask, py::arg("request_id"), py::arg("index"),
           py::arg("mask"),
           "Which tokens may be output token `index` of a request submitted with a mask or "
           "triggers, b'' for any; nothing happens if it has ended. Raises InvalidRequestError if "
           "the size is wrong. Any thread.")
      .def(
          "fail_mask",
          [](PyBatchEngine& self, RequestId id, const std::string& error) {
            self.engine().fail_mask(id, error);
          },
          py::arg("request_id"), py::arg("error"), release_gil(),
          "There will be no more masks: the request ends with this error. Any thread.")
      .def("token_name", &PyBatchEngine::token_name, py::arg("token"),
           "What a token is in the text that triggers are looked for in: a special token's name, "
           "of others the bytes. Any thread.")
      .def(
          "hold", [](PyBatchEngine& self) { self.engine().hold(); }, release_gil(),
          "No new step begins until release(): what is submitted meanwhile is planned together.")
      .def(
          "release", [](PyBatchEngine& self) { self.engine().release(); }, release_gil(),
          "Ends one hold().")
      .def(
          "cancel", [](PyBatchEngine& self, RequestId id) { self.engine().cancel(id); },
          py::arg("request_id"), release_gil(),
          "Ask for a request's end; its last delta says how it ended. Any thread.")
      .def("pin", &PyBatchEngine::pin, py::arg("name"), py::arg("prefix"), py::arg("cache_space"),
           py::arg("ttl_s"),
           "Evict a prefix last, once it is computed, for ttl_s seconds or, with None, for good. "
           "Any thread.")
      .def(
          "unpin", [](PyBatchEngine& self, const std::string& name) { self.engine().unpin(name); },
          py::arg("name"), release_gil(), "End a pin. Any thread.")
      .def(
          "clear_cache", [](PyBatchEngine& self) { self.engine().clear_cache(); }, release_gil(),
          "Forget every cached prefix that no running request needs, and all pins. Any thread.")
      .def("drain", &PyBatchEngine::drain, py::arg("timeout_s"), release_gil(),
           "All deltas since the last call, waiting up to timeout_s seconds (0.1 at most) for the "
           "first. Any thread.")
      .def(
          "step", [](PyBatchEngine& self) { return self.engine().step(); }, release_gil(),
          "Unthreaded engines: run one step. Returns whether there is more to do. Raises "
          "EngineDeadError. Any thread; one waits for the other.")
      .def("close", &PyBatchEngine::close, release_gil(),
           "End all requests as CANCELLED, stop, and free the model. Idempotent. Any thread.")
      .def(
          "finished", [](PyBatchEngine& self) { return self.engine().finished(); }, release_gil(),
          "True once closed or dead and every delta was drained. Any thread.")
      .def(
          "fatal_error", [](PyBatchEngine& self) { return self.engine().fatal_error(); },
          release_gil(), "The first fatal error, or ''. Any thread.")
      .def(
          "metrics", [](PyBatchEngine& self) { return self.engine().metrics(); }, release_gil(),
          "As of the last step. Any thread.")
      .def(
          "health", [](PyBatchEngine& self) { return self.engine().health(); }, release_gil(),
          "How the engine does now. Any thread.")
      .def(
          "start_trace", [](PyBatchEngine& self) { self.engine().trace().start(); }, release_gil(),
          "Note from now on what requests' time goes into, and every decode call. Any thread.")
      .def(
          "take_trace", [](PyBatchEngine& self) { return self.engine().trace().take(); },
          release_gil(), "What was noted since start_trace(), which ends with it. Any thread.")
      .def("tokenize", &PyBatchEngine::tokenize, py::arg("text"), py::arg("add_special"),
           py::arg("parse_special"), py::arg("prompt") = false, release_gil(),
           "Token ids of a text; of a prompt that cannot fit max_len, none. Any thread.")
      .def("detokenize", &PyBatchEngine::detokenize, py::arg("token_ids"), py::arg("special"),
           "Text of token ids; bytes that are no UTF-8 become U+FFFD. Any thread.")
      .def("token_bytes", &PyBatchEngine::token_bytes, py::arg("token_id"),
           "What a token adds to a text; special tokens nothing. Any thread.")
      .def(
          "end_of_generation",
          [](PyBatchEngine& self) {
            const auto ids = self.engine().table().end_of_generation();
            return std::vector<TokenId>(ids.begin(), ids.end());
          },
          "Tokens that end a generation, ascending. Any thread.")
      .def("apply_chat_template", &PyBatchEngine::apply_chat_template, py::kw_only(),
           py::arg("messages_json"), py::arg("tools_json"), py::arg("tool_choice"),
           py::arg("parallel_tool_calls"), py::arg("thinking"), py::arg("template_kwargs_json"),
           py::arg("add_generation_prompt"), release_gil(),
           "A conversation as the model reads it. Any thread.")
      .def_property_readonly("calibration", &PyBatchEngine::calibration,
                             "What calls cost, as it was given or measured at load; None: neither.")
      .def("model_info", &PyBatchEngine::model_info, "Facts of the model and limits in force.");
}

}  // namespace llamaherd

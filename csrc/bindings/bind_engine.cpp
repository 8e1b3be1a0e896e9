#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <filesystem>

#include "bindings/bindings.h"
#include "bindings/py_engine.h"
#include "bindings/released_gil.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

// Longer waits would delay Ctrl-C and the shutdown of the interpreter.
constexpr double kMaxWaitS = 0.1;

}  // namespace

void bind_engine(py::module_& m) {
  using release_gil = py::call_guard<ReleasedGil>;
  py::class_<PyBatchEngine>(m, "BatchEngine", "The core of llamaherd.BatchEngine.")
      .def(py::init([](const std::filesystem::path& path, const EngineConfig& config,
                       LoadProgress& progress, bool threaded,
                       std::optional<std::shared_ptr<LogitsRecord>> record,
                       std::optional<Calibration> calibration,
                       std::optional<std::shared_ptr<FaultScript>> faults) {
             return std::make_unique<PyBatchEngine>(
                 path.string(), config, progress,
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
  progress: Progress and cancellation, for other threads.
  threaded: False: no thread; the caller calls step().
  record: Records every logits row. For tests.
  calibration: Measured times of decode calls. None: measure them if config.warmup.
  faults: Faults to inject into decode calls. For tests.

Raises:
  ModelLoadError: The file cannot be loaded, or the context cannot be created.
  InvalidRequestError: An option is out of range.

Thread safety:
  Releases the GIL while it loads.
)pbdoc")
      .def("submit", &PyBatchEngine::submit, py::arg("prompt"), py::arg("params"),
           py::arg("streamed") = true, py::arg("cache_space") = CacheNamespace{0},
           py::arg("scheduling") = SchedulingOptions{}, py::arg("mask") = py::none(),
           py::arg("triggers") = std::vector<std::string>{}, R"pbdoc(
Queue one prompt for generation and return immediately. Its outputs (best_of, else n) are requests
with consecutive ids, queued all or none.

Args:
  prompt: Token ids, shape (n_prompt,), integers in [0, n_vocab). Copied.
  params: Not copied: must not be modified afterwards.
  streamed: False: only the last delta is delivered, with all tokens and text.
  cache_space: Cache namespace, in [0, 2**64): prefixes are shared within it only. None: a private
    request.
  scheduling: Copied.
  mask: Allowed first output tokens: bit t % 32 of the 32-bit word t / 32 for token t. Every
    further output token then waits for set_mask(). None: all.
  triggers: Texts, which may contain names of special tokens. Without mask, all tokens are allowed
    until one of them is output; every later token waits for set_mask().

Returns:
  The first request's id, unique within this engine.

Raises:
  InvalidRequestError: An argument is invalid; the message states the rule and the value.
  TypeError: The ids are not integers.
  QueueFullError: The queue is full.
  EngineDeadError: The engine is closed or stopped.

Thread safety:
  Any thread. Does not wait for a step.
)pbdoc")
      .def("set_mask", &PyBatchEngine::set_mask, py::arg("request_id"), py::arg("index"),
           py::arg("mask"),
           "Set the mask of output token `index` of a request submitted with a mask or triggers; "
           "b'' allows all tokens. Ignored if the request has ended. Raises InvalidRequestError if "
           "the size is wrong. Any thread.")
      .def(
          "lift_mask", [](PyBatchEngine& self, RequestId id) { self.engine().lift_mask(id); },
          py::arg("request_id"), release_gil(),
          "Allow all further output tokens of a request submitted with a mask. Any thread.")
      .def(
          "fail_mask",
          [](PyBatchEngine& self, RequestId id, const std::string& error) {
            self.engine().fail_mask(id, error);
          },
          py::arg("request_id"), py::arg("error"), release_gil(),
          "End a request that waits for masks with an error. Any thread.")
      .def("token_name", &PyBatchEngine::token_name, py::arg("token"),
           "A token's bytes in the text that is searched for triggers; special tokens by name. Any "
           "thread.")
      .def(
          "hold", [](PyBatchEngine& self) { self.engine().hold(); }, release_gil(),
          "Delay new steps until release(), so that requests submitted meanwhile are planned "
          "together.")
      .def(
          "release", [](PyBatchEngine& self) { self.engine().release(); }, release_gil(),
          "End one hold().")
      .def(
          "cancel", [](PyBatchEngine& self, RequestId id) { self.engine().cancel(id); },
          py::arg("request_id"), release_gil(),
          "Cancel a request; its last delta has the finish reason. Any thread.")
      .def(
          "progress",
          [](PyBatchEngine& self, RequestId id, double timeout_s) {
            return self.engine().progress(id, std::min(timeout_s, kMaxWaitS));
          },
          py::arg("request_id"), py::arg("timeout_s"), release_gil(),
          "Progress of a request; None: it has ended. Waits up to timeout_s seconds (at most 0.1) "
          "for the end of a step; without one, the last known state. Any thread.")
      .def("pin", &PyBatchEngine::pin, py::arg("name"), py::arg("prefix"), py::arg("cache_space"),
           py::arg("ttl_s"),
           "Pin a prefix: evict it last once it is computed. ttl_s: seconds until the pin expires; "
           "None: never. Any thread.")
      .def(
          "unpin", [](PyBatchEngine& self, const std::string& name) { self.engine().unpin(name); },
          py::arg("name"), release_gil(), "Remove a pin. Any thread.")
      .def(
          "clear_cache", [](PyBatchEngine& self) { self.engine().clear_cache(); }, release_gil(),
          "Remove all pins, and all cached data that running requests do not use. Any thread.")
      .def("drain", &PyBatchEngine::drain, py::arg("timeout_s"), release_gil(),
           "Return all deltas since the last call; wait up to timeout_s seconds (at most 0.1) for "
           "the first. Any thread.")
      .def(
          "step", [](PyBatchEngine& self) { return self.engine().step(); }, release_gil(),
          "Unthreaded engines: run one step. Returns whether requests are left. Raises "
          "EngineDeadError. Any thread; concurrent calls are serialized.")
      .def("close", &PyBatchEngine::close, release_gil(),
           "End all requests as CANCELLED, stop, and free the model. Idempotent. Any thread.")
      .def(
          "finished", [](PyBatchEngine& self) { return self.engine().finished(); }, release_gil(),
          "Whether the engine is closed or dead and all deltas are drained. Any thread.")
      .def(
          "fatal_error", [](PyBatchEngine& self) { return self.engine().fatal_error(); },
          release_gil(), "The first fatal error, or ''. Any thread.")
      .def(
          "metrics", [](PyBatchEngine& self) { return self.engine().metrics(); }, release_gil(),
          "Metrics as of the last step. Any thread.")
      .def(
          "health", [](PyBatchEngine& self) { return self.engine().health(); }, release_gil(),
          "Current health. Any thread.")
      .def(
          "start_trace", [](PyBatchEngine& self) { self.engine().trace().start(); }, release_gil(),
          "Start recording decode calls and the time spans of requests. Any thread.")
      .def(
          "take_trace", [](PyBatchEngine& self) { return self.engine().trace().take(); },
          release_gil(), "Stop recording, and return the events since start_trace(). Any thread.")
      .def("tokenize", &PyBatchEngine::tokenize, py::arg("text"), py::arg("add_special"),
           py::arg("parse_special"), py::arg("prompt") = false, release_gil(),
           "Tokenize a text. prompt: raise ContextLengthError if it has more than max_len tokens. "
           "Any thread.")
      .def("detokenize", &PyBatchEngine::detokenize, py::arg("token_ids"), py::arg("special"),
           "Detokenize token ids. Invalid UTF-8 is replaced by U+FFFD. Any thread.")
      .def("token_bytes", &PyBatchEngine::token_bytes, py::arg("token_id"),
           "Bytes of a token; empty for special tokens. Any thread.")
      .def(
          "end_of_generation",
          [](PyBatchEngine& self) {
            const auto ids = self.engine().table().end_of_generation();
            return std::vector<TokenId>(ids.begin(), ids.end());
          },
          "End-of-generation tokens, ascending. Any thread.")
      .def("apply_chat_template", &PyBatchEngine::apply_chat_template, py::kw_only(),
           py::arg("messages_json"), py::arg("tools_json"), py::arg("tool_choice"),
           py::arg("parallel_tool_calls"), py::arg("thinking"), py::arg("template_kwargs_json"),
           py::arg("add_generation_prompt"), py::arg("continue_final_message"), release_gil(),
           "Render a conversation with the model's chat template. continue_final_message: whether "
           "the answer continues the last message; None: if it is an assistant message. Any "
           "thread.")
      .def_property_readonly("calibration", &PyBatchEngine::calibration,
                             "Times of decode calls, as passed or measured at load; None: neither.")
      .def("model_info", &PyBatchEngine::model_info, "Model properties and limits in force.");
}

}  // namespace llamaherd

#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>
#include <unistd.h>

#include <limits>
#include <mutex>

#include "bindings.h"
#include "calibration.h"
#include "engine_thread.h"
#include "error.h"
#include "fault_script.h"
#include "llama/chat_template.h"
#include "llama/faulty_backend.h"
#include "llama/fingerprint.h"
#include "llama/llama_backend.h"
#include "llama/llama_model.h"
#include "llama/log_sink.h"
#include "logits_record.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

// Longer waits would keep a closing interpreter's thread in C++.
constexpr double kMaxDrainS = 0.1;

/// One int of Python's, whatever its size, as a token id.
TokenId to_token(const py::handle item) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < std::numeric_limits<TokenId>::min() ||
      value > std::numeric_limits<TokenId>::max()) {
    throw InvalidRequestError("token ids must fit 32 bits; got " + std::string(py::str(index)));
  }
  return static_cast<TokenId>(value);
}

/// A 1-D integer array or a sequence of ints; floats are not token ids.
std::vector<TokenId> to_tokens(const py::object& ids) {
  std::vector<TokenId> tokens;
  if (py::isinstance<py::array>(ids)) {
    const auto array = py::reinterpret_borrow<py::array>(ids);
    const char kind = array.dtype().kind();
    if (array.ndim() != 1 || (kind != 'i' && kind != 'u')) {
      throw py::type_error("token ids must be a 1-D array of integers");
    }
    for (const py::handle item : array.attr("tolist")()) tokens.push_back(to_token(item));
    return tokens;
  }
  if (py::isinstance<py::str>(ids) || py::isinstance<py::bytes>(ids) ||
      !py::isinstance<py::sequence>(ids)) {
    throw py::type_error("token ids must be a sequence of int or a 1-D integer array");
  }
  const auto sequence = py::reinterpret_borrow<py::sequence>(ids);
  tokens.reserve(sequence.size());
  for (const py::handle item : sequence) {
    if (!PyIndex_Check(item.ptr()) || PyBool_Check(item.ptr())) {
      throw py::type_error("token ids must be int; got " +
                           std::string(py::str(py::type::handle_of(item).attr("__name__"))));
    }
    tokens.push_back(to_token(item));
  }
  return tokens;
}

struct Model {
  LlamaModel llama;
  ChatTemplate chat;

  Model(const std::string& path, const EngineConfig& config, LoadProgress& progress)
      : llama(path, config, progress), chat(llama, config.chat_template) {}
};

/// What Python holds. Calls that use the model share it, so that close() may free it any time.
class PyBatchEngine {
 public:
  PyBatchEngine(const std::string& path, const EngineConfig& config, LoadProgress& progress,
                bool threaded, std::optional<std::shared_ptr<LogitsRecord>> record,
                std::optional<Calibration> calibration,
                std::optional<std::shared_ptr<FaultScript>> faults)
      : pid_(getpid()), calibration_(std::move(calibration)) {
    validate(config);
    const py::gil_scoped_release release;
    model_ = std::make_shared<Model>(path, config, progress);
    auto llama = std::make_unique<LlamaBackend>(
        std::shared_ptr<const LlamaModel>(model_, &model_->llama), config);
    info_ = llama->info();
    CacheOptions cache = cache_options(path, config);
    if (calibration_) {
      validate(*calibration_);
      warm_up(*llama, {.now_ns = now_ns});
    } else if (config.warmup) {
      calibration_ = calibrate(*llama, {.now_ns = now_ns});
    }
    if (calibration_) cache.costs = CostModel(*calibration_).costs();
    PlanOptions plan;
    plan.calibration = calibration_;
    std::unique_ptr<Backend> backend;
    if (faults) {
      backend = std::make_unique<FaultyBackend>(std::move(llama), *faults);
    } else {
      backend = std::move(llama);
    }
    if (record) backend = std::make_unique<RecordingBackend>(std::move(backend), *record);
    const Limits limits{info_.n_vocab, resolve_max_len(config), config.max_queued,
                        config.max_queued_tokens};
    plan.packing.n_rows = std::min(resolve_preset(config).token_budget, info_.n_batch);
    plan.packing.n_batch = info_.n_batch;
    plan.packing.target_itl_ns = config.target_itl_ms.value_or(0) * 1e6;
    plan.packing.may_pad = info_.pad_seq != kNoSeq;
    plan.queue.weights = {config.tenant_weights.begin(), config.tenant_weights.end()};
    // Longer than an engine lives is never.
    const double aging_ns = config.aging_s * 1e9;
    if (aging_ns < 1e18) plan.queue.aging_ns = static_cast<std::int64_t>(aging_ns);
    engine_ = std::make_unique<EngineThread>(
        std::move(backend), model_->llama.make_token_table(), limits, plan,
        threaded ? EngineThread::Mode::kThreaded : EngineThread::Mode::kStepped, cache);
  }

  ~PyBatchEngine() {
    if (getpid() != pid_) {
      // A forked child has a copy of the memory but not the threads: waiting for one would hang.
      (void)engine_.release();
      (void)new std::shared_ptr<Model>(std::move(model_));
      return;
    }
    const py::gil_scoped_release release;
    engine_.reset();
  }

  const std::optional<Calibration>& calibration() const { return calibration_; }

  EngineThread& engine() {
    if (getpid() != pid_) {
      throw EngineDeadError("this engine belongs to process " + std::to_string(pid_) +
                            " and was forked into process " + std::to_string(getpid()) +
                            "; make a new one here");
    }
    return *engine_;
  }

  void close() {
    engine().close();
    const std::lock_guard lock(model_mutex_);
    model_.reset();
  }

  RequestId submit(const py::object& prompt, const SamplingParams& params, bool streamed,
                   std::optional<CacheSpace> cache_space, const Service& service) {
    std::vector<TokenId> tokens = to_tokens(prompt);
    const py::gil_scoped_release release;
    return engine().submit(std::move(tokens), params, {streamed, cache_space}, service);
  }

  /// What is wrong is logged where results are fetched: that happens however the engine does.
  std::vector<Delta> drain(double timeout_s) {
    const std::string incident = engine().take_incident();
    if (!incident.empty()) log_sink::add(LogLevel::kWarning, incident);
    return engine().drain(std::min(timeout_s, kMaxDrainS));
  }

  void pin(const std::string& name, const py::object& prefix, CacheSpace cache_space,
           std::optional<double> ttl_s) {
    std::vector<TokenId> tokens = to_tokens(prefix);
    const py::gil_scoped_release release;
    const auto ttl_ns = static_cast<std::int64_t>(ttl_s.value_or(0) * 1e9);
    engine().pin(name, cache_space, std::move(tokens), ttl_s ? now_ns() + ttl_ns : 0);
  }

  std::vector<TokenId> tokenize(const std::string& text, bool add_special, bool parse_special) {
    return model()->llama.tokenize(text, add_special, parse_special);
  }

  py::bytes token_bytes(TokenId token) {
    if (token < 0 || token >= info_.n_vocab) {
      throw InvalidRequestError("token ids must be in [0, " + std::to_string(info_.n_vocab) +
                                "); got " + std::to_string(token));
    }
    return py::bytes(std::string(engine().table().piece(token)));
  }

  py::str detokenize(const py::object& ids, bool special) {
    const std::vector<TokenId> tokens = to_tokens(ids);
    for (TokenId token : tokens) {
      if (token >= 0 && token < info_.n_vocab) continue;
      throw InvalidRequestError("token ids must be in [0, " + std::to_string(info_.n_vocab) +
                                "); got " + std::to_string(token));
    }
    const std::string bytes = model()->llama.detokenize(tokens, special);
    return py::reinterpret_steal<py::str>(
        PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), "replace"));
  }

  py::typing::Tuple<py::str, py::typing::List<py::str>> apply_chat_template(
      const std::string& messages, const std::string& tools, bool add_generation_prompt) {
    ChatTemplate::Prompt prompt;
    {
      const py::gil_scoped_release release;
      prompt = model()->chat.apply(messages, tools, add_generation_prompt);
    }
    return py::make_tuple(prompt.text, prompt.stop);
  }

  py::typing::Dict<py::str, py::object> model_info() {
    const std::shared_ptr<Model> shared = model();
    const LlamaModel& llama = shared->llama;
    py::typing::Dict<py::str, py::object> d;
    d["description"] = llama.description();
    d["n_params"] = llama_model_n_params(llama.get());
    d["n_bytes"] = llama_model_size(llama.get());
    d["n_vocab"] = info_.n_vocab;
    d["n_layer"] = llama_model_n_layer(llama.get());
    d["n_embd"] = llama_model_n_embd(llama.get());
    d["n_ctx_train"] = info_.n_ctx_train;
    d["n_ctx"] = info_.n_ctx;
    d["max_len"] = engine().limits().max_len;
    d["max_seqs"] = info_.n_seqs;
    d["memory_kind"] = llama.memory_kind();
    d["prefix_sharing"] = prefix_sharing();
    d["has_chat_template"] = shared->chat.exists();
    d["metadata"] = py::dict(py::cast(llama.metadata()));
    return d;
  }

 private:
  /// What the model's memory allows, and the caller.
  std::string prefix_sharing() const {
    if (info_.n_tags == 0) return "none";
    return info_.partial_removal ? "any_prefix" : "snapshots";
  }

  CacheOptions cache_options(const std::string& path, const EngineConfig& config) const {
    CacheOptions options;
    options.enabled = config.prefix_cache && info_.n_tags > 0;
    if (!options.enabled) return options;
    options.max_ram_bytes = std::int64_t{config.cache_ram_mib} << 20;
    options.warn = [](const std::string& text) { log_sink::add(LogLevel::kWarning, text); };
    if (config.cache_dir.empty()) return options;
    options.disk_folder = config.cache_dir;
    options.max_disk_bytes = std::int64_t{config.cache_disk_mib} << 20;
    options.fingerprint = kv_fingerprint(model_->llama, path, config, LLAMAHERD_LLAMA_COMMIT);
    return options;
  }

  std::int32_t resolve_max_len(const EngineConfig& config) const {
    if (!config.max_len) return std::min(info_.n_ctx, info_.n_ctx_train);
    if (*config.max_len > info_.n_ctx) {
      throw InvalidRequestError("max_len must be <= n_ctx (" + std::to_string(info_.n_ctx) +
                                "); got " + std::to_string(*config.max_len));
    }
    return *config.max_len;
  }

  std::shared_ptr<Model> model() {
    engine();
    const std::lock_guard lock(model_mutex_);
    if (!model_) throw EngineDeadError("the engine is closed");
    return model_;
  }

  pid_t pid_;
  std::optional<Calibration> calibration_;
  BackendInfo info_;
  std::mutex model_mutex_;
  std::shared_ptr<Model> model_;
  std::unique_ptr<EngineThread> engine_;
};

}  // namespace

void bind_engine(py::module_& m) {
  using release_gil = py::call_guard<py::gil_scoped_release>;
  py::class_<PyBatchEngine>(m, "BatchEngine", "The core of llamaherd.BatchEngine.")
      .def(py::init<const std::string&, const EngineConfig&, LoadProgress&, bool,
                    std::optional<std::shared_ptr<LogitsRecord>>, std::optional<Calibration>,
                    std::optional<std::shared_ptr<FaultScript>>>(),
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
           py::arg("streamed") = true, py::arg("cache_space") = CacheSpace{0},
           py::arg("service") = Service{}, R"pbdoc(
Queue one prompt for generation and return at once. Its outputs (best_of, else n) are requests
with consecutive ids; where the queue is bounded they are let in together, as one.

Args:
  prompt: Token ids, shape (n_prompt,), integers in [0, n_vocab). Copied.
  params: Copied.
  streamed: False: only the last delta comes out, with all tokens and text.
  cache_space: Prefixes are shared within a space only, in [0, 2**64). None: shares nothing and
    leaves nothing.
  service: Copied.

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
           py::arg("parse_special"), release_gil(), "Token ids of a text. Any thread.")
      .def("detokenize", &PyBatchEngine::detokenize, py::arg("token_ids"), py::arg("special"),
           "Text of token ids; bytes that are no UTF-8 become U+FFFD. Any thread.")
      .def("token_bytes", &PyBatchEngine::token_bytes, py::arg("token_id"),
           "What a token adds to a text; special tokens nothing. Any thread.")
      .def("apply_chat_template", &PyBatchEngine::apply_chat_template, py::arg("messages_json"),
           py::arg("tools_json"), py::arg("add_generation_prompt"),
           "The prompt text, and strings that end the answer. Any thread.")
      .def_property_readonly("calibration", &PyBatchEngine::calibration,
                             "What calls cost, as it was given or measured at load; None: neither.")
      .def("model_info", &PyBatchEngine::model_info, "Facts of the model and limits in force.");
}

}  // namespace llamaherd

#pragma once

#include <pybind11/stl.h>
#include <pybind11/typing.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine_factory.h"

namespace llamaherd {

namespace py = pybind11;

/// The engine object of Python. Calls in progress share ownership of the model, so that close() may
/// be called at any time.
class PyBatchEngine {
 public:
  PyBatchEngine(const std::string& path, const EngineConfig& config, LoadProgress& progress,
                EngineInputs inputs);

  ~PyBatchEngine();

  const std::optional<Calibration>& calibration() const { return calibration_; }

  EngineThread& engine();

  void close();

  RequestId submit(const py::object& prompt, std::shared_ptr<SamplingParams> params, bool streamed,
                   std::optional<CacheNamespace> cache_space, const SchedulingOptions& scheduling,
                   const std::optional<py::buffer>& mask, const std::vector<std::string>& triggers);

  void set_mask(RequestId id, std::int32_t index, const py::buffer& mask);

  py::bytes token_name(TokenId token);

  /// Also logs incidents of the watchdog: results are fetched even if the engine is stalled.
  std::vector<Delta> drain(double timeout_s);

  void pin(const std::string& name, const py::object& prefix, CacheNamespace cache_space,
           std::optional<double> ttl_s);

  /// With `prompt`, throws ContextLengthError if there are more than max_len tokens; before
  /// tokenization if the number of bytes implies it.
  std::vector<TokenId> tokenize(const std::string& text, bool add_special, bool parse_special,
                                bool prompt);

  py::bytes token_bytes(TokenId token);

  py::str detokenize(const py::object& ids, bool special);

  ChatPrompt apply_chat_template(std::string messages, std::string tools, std::string tool_choice,
                                 bool parallel_tool_calls, bool thinking,
                                 std::string template_kwargs, bool add_generation_prompt,
                                 std::optional<bool> continue_final_message);

  py::typing::Dict<py::str, py::object> model_info();

  /// Throws EngineDeadError once closed.
  std::shared_ptr<Model> model();

 private:
  void require_token(TokenId token) const;

  /// Which prefixes the model's memory kind and the options allow to share.
  std::string prefix_sharing() const;

  pid_t pid_;
  std::optional<Calibration> calibration_;
  BackendInfo info_;
  std::mutex model_mutex_;
  std::shared_ptr<Model> model_;
  std::unique_ptr<EngineThread> engine_;
};

}  // namespace llamaherd

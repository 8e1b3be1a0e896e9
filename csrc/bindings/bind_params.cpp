#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>

#include "bindings/bindings.h"
#include "config/params.h"
#include "cost/cost_model.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

using Pair = std::pair<double, double>;

template <Calibration::Attention Calibration::*field>
Pair get_attention(const Calibration& self) {
  return {(self.*field).attended_ns, (self.*field).scanned_ns};
}

template <Calibration::Attention Calibration::*field>
void set_attention(Calibration& self, const Pair& pair) {
  self.*field = {pair.first, pair.second};
}

}  // namespace

// The public dataclasses llamaherd.SamplingParams and llamaherd.EngineConfig copy their fields to
// these and call validate(): each rule is implemented once.
void bind_params(py::module_& m) {
  m.attr("DEFAULT_MAX_TOKENS") = kDefaultMaxTokens;
  // submit() shares it with the engine without a copy.
  py::class_<SamplingParams, std::shared_ptr<SamplingParams>>(
      m, "SamplingParams", "The core's form of llamaherd.SamplingParams.")
      .def(py::init<>())
      .def(py::init<const SamplingParams&>(), py::arg("other"), "A copy.")
      .def_readwrite("max_tokens", &SamplingParams::max_tokens)
      .def_readwrite("min_tokens", &SamplingParams::min_tokens)
      .def_readwrite("temperature", &SamplingParams::temperature)
      .def_readwrite("top_k", &SamplingParams::top_k)
      .def_readwrite("top_p", &SamplingParams::top_p)
      .def_readwrite("min_p", &SamplingParams::min_p)
      .def_readwrite("typical_p", &SamplingParams::typical_p)
      .def_readwrite("infill", &SamplingParams::infill)
      .def_readwrite("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_readwrite("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_readwrite("presence_penalty", &SamplingParams::presence_penalty)
      .def_readwrite("logit_bias", &SamplingParams::logit_bias)
      .def_readwrite("seed", &SamplingParams::seed)
      .def_readwrite("ignore_eos", &SamplingParams::ignore_eos)
      .def_readwrite("stop_token_ids", &SamplingParams::stop_token_ids)
      .def_property(
          "stop", [](const SamplingParams& self) { return self.stop.texts(); },
          [](SamplingParams& self, std::vector<std::string> texts) {
            self.stop = StopStrings(std::move(texts));
          })
      .def_readwrite("echo", &SamplingParams::echo)
      .def_readwrite("logprobs", &SamplingParams::logprobs)
      .def_readwrite("prompt_logprobs", &SamplingParams::prompt_logprobs)
      .def_readwrite("prompt_logprobs_from", &SamplingParams::prompt_logprobs_from)
      .def_readwrite("n", &SamplingParams::n)
      .def_readwrite("best_of", &SamplingParams::best_of)
      .def_readwrite("prompt_lookup", &SamplingParams::prompt_lookup)
      .def_readwrite("preserved_tokens", &SamplingParams::preserved_tokens)
      .def(
          "validate", [](const SamplingParams& self) { validate(self); },
          "Raises InvalidRequestError if a value is out of range for every model.");

  py::class_<SchedulingOptions>(m, "SchedulingOptions",
                                "Priority, tenant and deadlines of a request.")
      .def(py::init<>())
      .def_readwrite("priority", &SchedulingOptions::priority)
      .def_readwrite("tenant", &SchedulingOptions::tenant)
      .def_readwrite("deadline_s", &SchedulingOptions::deadline_s)
      .def_readwrite("ttft_deadline_s", &SchedulingOptions::ttft_deadline_s)
      .def(
          "validate", [](const SchedulingOptions& self) { validate(self); },
          "Raises InvalidRequestError if a value is out of range.");

  py::class_<Calibration>(m, "Calibration", "Measured times of decode calls, in nanoseconds.")
      .def(py::init<>())
      .def_property(
          "points",
          [](const Calibration& self) {
            std::vector<std::pair<std::int32_t, double>> points;
            for (const auto& [n_rows, ns] : self.points) points.emplace_back(n_rows, ns);
            return points;
          },
          [](Calibration& self, const std::vector<std::pair<std::int32_t, double>>& points) {
            self.points.clear();
            for (const auto& [n_rows, ns] : points) self.points.push_back({n_rows, ns});
          },
          "(rows, time of a call with an empty KV cache), ascending.")
      .def_property("few", &get_attention<&Calibration::few>, &set_attention<&Calibration::few>,
                    "(per cell that a row attends to, per cell in use and row), below 64 rows.")
      .def_property("many", &get_attention<&Calibration::many>, &set_attention<&Calibration::many>,
                    "The same from 64 rows on.")
      .def_readwrite("load_token_ns", &Calibration::load_token_ns,
                     "Time per token of KV data restored from host memory.")
      .def_readwrite(
          "noise", &Calibration::noise,
          "Median ratio of two measurements of the same shape; 0: no shape was measured twice.")
      .def(
          "validate", [](const Calibration& self) { validate(self); },
          "Raises InvalidRequestError if a value is invalid.");

  py::class_<EngineConfig>(m, "EngineConfig", "The core's form of llamaherd.EngineConfig.")
      .def(py::init<>())
      .def_readwrite("preset", &EngineConfig::preset)
      .def_readwrite("n_ctx", &EngineConfig::n_ctx)
      .def_readwrite("max_len", &EngineConfig::max_len)
      .def_readwrite("max_seqs", &EngineConfig::max_seqs)
      .def_readwrite("token_budget", &EngineConfig::token_budget)
      .def_readwrite("n_ubatch", &EngineConfig::n_ubatch)
      .def_readwrite("target_itl_ms", &EngineConfig::target_itl_ms)
      .def_readwrite("max_queued", &EngineConfig::max_queued)
      .def_readwrite("max_queued_tokens", &EngineConfig::max_queued_tokens)
      .def_readwrite("aging_s", &EngineConfig::aging_s)
      .def_readwrite("tenant_weights", &EngineConfig::tenant_weights)
      .def_readwrite("n_threads", &EngineConfig::n_threads)
      .def_readwrite("poll", &EngineConfig::poll)
      .def_readwrite("n_gpu_layers", &EngineConfig::n_gpu_layers)
      .def_readwrite("devices", &EngineConfig::devices)
      .def_readwrite("tensor_split", &EngineConfig::tensor_split)
      .def_readwrite("split_mode", &EngineConfig::split_mode)
      .def_readwrite("main_gpu", &EngineConfig::main_gpu)
      .def_readwrite("use_mmap", &EngineConfig::use_mmap)
      .def_readwrite("use_mlock", &EngineConfig::use_mlock)
      .def_readwrite("kv_type", &EngineConfig::kv_type)
      .def_readwrite("chat_template", &EngineConfig::chat_template)
      .def_readwrite("cpu_kernels", &EngineConfig::cpu_kernels)
      .def_readwrite("deterministic", &EngineConfig::deterministic)
      .def_readwrite("prompt_lookup", &EngineConfig::prompt_lookup)
      .def_readwrite("warmup", &EngineConfig::warmup)
      .def_readwrite("prefix_cache", &EngineConfig::prefix_cache)
      .def_readwrite("cache_ram_mib", &EngineConfig::cache_ram_mib)
      .def_property(
          "cache_dir",
          [](const EngineConfig& self) {
            return py::reinterpret_steal<py::str>(
                PyUnicode_DecodeFSDefault(self.cache_dir.c_str()));
          },
          [](EngineConfig& self, const std::filesystem::path& path) {
            self.cache_dir = path.string();
          })
      .def_readwrite("cache_disk_mib", &EngineConfig::cache_disk_mib)
      .def(
          "validate", [](const EngineConfig& self) { validate(self); },
          "Raises InvalidRequestError if a value is out of range for every model.");

  m.def(
      "resolve_preset",
      [](const EngineConfig& config) {
        validate(config);
        const Preset preset = resolve_preset(config);
        return std::make_tuple(preset.max_seqs, preset.token_budget);
      },
      py::arg("config"),
      "Effective (max_seqs, token_budget): explicit options, else the preset's.");
}

}  // namespace llamaherd

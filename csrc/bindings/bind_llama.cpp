#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>
#include <pybind11/typing.h>

#include <filesystem>

#include "bindings/bindings.h"
#include "bindings/released_gil.h"
#include "bindings/values.h"
#include "common/error.h"
#include "llama/backend/llama_backend.h"
#include "llama/common/abort_guard.h"
#include "llama/common/devices.h"
#include "llama/common/kernel_choice.h"
#include "llama/common/log_sink.h"
#include "llama/model/gguf_summary.h"
#include "llama/model/llama_model.h"
#include "llama/model/quantize.h"

namespace py = pybind11;

namespace llamaherd {
namespace {

int python_level(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return 40;
    case LogLevel::kWarning:
      return 30;
    case LogLevel::kInfo:
      return 20;
    default:
      return 10;
  }
}

using LogTuple = py::typing::Tuple<py::int_, py::str>;

py::typing::List<LogTuple> drain_log() {
  py::typing::List<LogTuple> lines;
  for (const LogLine& line : log_sink::drain()) {
    lines.append(py::make_tuple(python_level(line.level), to_text(line.text)));
  }
  return lines;
}

/// Looked up in the registry: the RPC backend is optional in builds.
void serve_rpc(const std::string& endpoint) {
  init_llama();
  ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
  if (!rpc) {
    throw LlamaHerdError("this build has no RPC backend; build with -C cmake.define.GGML_RPC=ON");
  }
  using Start = void (*)(const char*, const char*, std::size_t, std::size_t, ggml_backend_dev_t*);
  const auto start = reinterpret_cast<Start>(
      ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_start_server"));
  ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  start(endpoint.c_str(), nullptr, default_n_threads(), 1, &cpu);
}

}  // namespace

void bind_llama(py::module_& m) {
  install_abort_handler();
  m.def("drain_log", &drain_log,
        "Log lines of llama.cpp since the last call, as (logging level, text). Any thread.");
  m.def("default_n_threads", &default_n_threads, "Number of CPUs available to this process.");
  m.def("cpu_features", &cpu_features, "ggml's active CPU features and build options.");

  m.def("cpu_kernels", &kernels_name, py::arg("config"),
        "CPU kernels that an engine with this config uses: stock, reference, or the instruction "
        "set of llamaherd's kernels. Raises InvalidRequestError if the environment variable "
        "LLAMAHERD_CPU_KERNELS is invalid.");

  py::class_<DeviceInfo>(m, "DeviceInfo", "A device that models can run on.")
      .def_readonly("name", &DeviceInfo::name, "Name for EngineConfig.devices.")
      .def_readonly("description", &DeviceInfo::description)
      .def_readonly("kind", &DeviceInfo::kind, "cpu, gpu, integrated_gpu or accelerator.")
      .def_readonly("backend", &DeviceInfo::backend)
      .def_readonly("memory_free", &DeviceInfo::memory_free, "Bytes.")
      .def_readonly("memory_total", &DeviceInfo::memory_total, "Bytes.");
  m.def("list_devices", &list_devices, "Devices available on this machine.");

  py::class_<GgufSummary>(m, "GgufSummary",
                          "What the header of a GGUF file states of its model; 0 and '' where it "
                          "states nothing. Read-only.")
      .def_property_readonly("architecture",
                             [](const GgufSummary& self) { return to_text(self.architecture); })
      .def_readonly("weight_type", &GgufSummary::weight_type,
                    "Type of the weights by llama.cpp's name.")
      .def_readonly("pooling", &GgufSummary::pooling, "mean, cls, last or rank.")
      .def_readonly("causal", &GgufSummary::causal,
                    "Whether attention is causal; that of encoders for embeddings is not.")
      .def_readonly("n_vocab", &GgufSummary::n_vocab)
      .def_readonly("n_embd", &GgufSummary::n_embd)
      .def_readonly("n_ctx_train", &GgufSummary::n_ctx_train, "Trained context length in tokens.")
      .def_readonly("n_params", &GgufSummary::n_params, "Parameters in this file.")
      .def_readonly("n_bytes", &GgufSummary::n_bytes, "Bytes of the tensors in this file.");
  m.def(
      "read_summary", [](const std::filesystem::path& path) { return read_summary(path.string()); },
      py::arg("path"), py::call_guard<ReleasedGil>(),
      "Read the header of a GGUF file, without its tensors. Raises ModelLoadError. Any thread.");

  m.def("quantization_types", &quantization_types, "Type names for quantize().");
  m.def(
      "quantize",
      [](const std::filesystem::path& source, const std::filesystem::path& target,
         const std::string& type,
         std::int32_t n_threads) { quantize(source.string(), target.string(), type, n_threads); },
      py::arg("source"), py::arg("target"), py::arg("type"), py::arg("n_threads"),
      py::call_guard<ReleasedGil>(),
      "Write a GGUF file with its weights quantized to another type. Raises ModelLoadError.");

  py::class_<LoadProgress>(m, "LoadProgress",
                           "Reports the progress of a load and cancels it, from another thread.")
      .def(py::init<>())
      .def_property_readonly(
          "fraction", [](const LoadProgress& self) { return self.fraction.load(); },
          "Fraction of the weights loaded, in [0, 1].")
      .def(
          "cancel", [](LoadProgress& self) { self.cancelled = true; },
          "Cancel the load, which then raises ModelLoadError.");

  m.def("serve_rpc", &serve_rpc, py::arg("endpoint"), py::call_guard<ReleasedGil>(),
        "Serve this machine's CPU as an RPC device at HOST:PORT. Returns on failure only.");
}

}  // namespace llamaherd

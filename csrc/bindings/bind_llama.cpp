#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include "bindings/bindings.h"
#include "bindings/released_gil.h"
#include "bindings/values.h"
#include "common/error.h"
#include "llama/backend/llama_backend.h"
#include "llama/common/abort_guard.h"
#include "llama/common/devices.h"
#include "llama/common/kernel_choice.h"
#include "llama/common/log_sink.h"
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

/// Found through the registry: an RPC backend is there only in builds that asked for it.
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
        "llama.cpp's log lines since the last call, as (logging level, text). Any thread.");
  m.def("default_n_threads", &default_n_threads, "CPUs this process may run on.");
  m.def("cpu_features", &cpu_features, "ggml's CPU features and switches that are on.");

  m.def("cpu_kernels", &kernels_name, py::arg("config"),
        "Which CPU kernels an engine of this config computes with: stock, reference, or the "
        "instruction set of the fast ones. Raises InvalidRequestError if the environment's "
        "LLAMAHERD_CPU_KERNELS names none.");

  py::class_<DeviceInfo>(m, "DeviceInfo", "A device that models can run on.")
      .def_readonly("name", &DeviceInfo::name, "As EngineConfig.devices takes it.")
      .def_readonly("description", &DeviceInfo::description)
      .def_readonly("kind", &DeviceInfo::kind, "cpu, gpu, integrated_gpu or accelerator.")
      .def_readonly("backend", &DeviceInfo::backend)
      .def_readonly("memory_free", &DeviceInfo::memory_free, "Bytes.")
      .def_readonly("memory_total", &DeviceInfo::memory_total, "Bytes.");
  m.def("list_devices", &list_devices, "The devices found.");

  m.def("quantization_types", &quantization_types, "Names that quantize() takes.");
  m.def("quantize", &quantize, py::arg("source"), py::arg("target"), py::arg("type"),
        py::arg("n_threads"), py::call_guard<ReleasedGil>(),
        "Write a GGUF file with its weights in another type. Raises ModelLoadError.");

  py::class_<LoadProgress>(m, "LoadProgress", "Watches and cancels a load from another thread.")
      .def(py::init<>())
      .def_property_readonly(
          "fraction", [](const LoadProgress& self) { return self.fraction.load(); },
          "Of the weights, in [0, 1].")
      .def(
          "cancel", [](LoadProgress& self) { self.cancelled = true; },
          "The load raises ModelLoadError soon.");

  m.def("serve_rpc", &serve_rpc, py::arg("endpoint"), py::call_guard<ReleasedGil>(),
        "Lend this machine's CPU to other processes as a device, HOST:PORT. Returns on failure.");
}

}  // namespace llamaherd

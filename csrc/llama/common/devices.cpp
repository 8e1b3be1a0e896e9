#include "llama/common/devices.h"

#include <mutex>

#include "common/error.h"
#include "kernels/ggml/ggml_hook.h"
#include "llama.h"
#include "llama/common/log_sink.h"

namespace llamaherd {
namespace {

constexpr std::string_view kRpcPrefix = "rpc://";

std::string kind_of(ggml_backend_dev_t device) {
  switch (ggml_backend_dev_type(device)) {
    case GGML_BACKEND_DEVICE_TYPE_CPU:
      return "cpu";
    case GGML_BACKEND_DEVICE_TYPE_GPU:
      return "gpu";
    case GGML_BACKEND_DEVICE_TYPE_IGPU:
      return "integrated_gpu";
    default:
      return "accelerator";
  }
}

void add_rpc_devices(const std::string& endpoint, std::vector<ggml_backend_dev_t>& out) {
  ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
  if (!rpc) {
    throw InvalidRequestError(
        "devices names an RPC server, but this build has no RPC backend; "
        "build with -C cmake.define.GGML_RPC=ON");
  }
  using AddServer = ggml_backend_reg_t (*)(const char*);
  const auto add_server = reinterpret_cast<AddServer>(
      ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server"));
  ggml_backend_reg_t server = add_server ? add_server(endpoint.c_str()) : nullptr;
  if (!server) throw InvalidRequestError("no RPC server answers at " + endpoint);
  for (std::size_t i = 0; i < ggml_backend_reg_dev_count(server); ++i) {
    out.push_back(ggml_backend_reg_dev_get(server, i));
  }
}

}  // namespace

void init_llama() {
  static std::once_flag once;
  std::call_once(once, [] {
    log_sink::install();
    kernels::install_hook();
    llama_backend_init();
  });
}

std::vector<DeviceInfo> list_devices() {
  init_llama();
  std::vector<DeviceInfo> devices;
  for (std::size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    DeviceInfo info;
    info.name = ggml_backend_dev_name(device);
    info.description = ggml_backend_dev_description(device);
    info.kind = kind_of(device);
    info.backend = ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
    std::size_t free = 0, total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    info.memory_free = free;
    info.memory_total = total;
    devices.push_back(std::move(info));
  }
  return devices;
}

std::vector<std::pair<std::string, std::string>> cpu_features() {
  init_llama();
  std::vector<std::pair<std::string, std::string>> features;
  ggml_backend_reg_t cpu = ggml_backend_reg_by_name("CPU");
  const auto get = reinterpret_cast<ggml_backend_get_features_t>(
      ggml_backend_reg_get_proc_address(cpu, "ggml_backend_get_features"));
  if (!get) return features;
  for (ggml_backend_feature* f = get(cpu); f && f->name; ++f)
    features.emplace_back(f->name, f->value);
  return features;
}

std::vector<ggml_backend_dev_t> find_devices(const std::vector<std::string>& names) {
  std::vector<ggml_backend_dev_t> devices;
  for (const std::string& name : names) {
    if (name.starts_with(kRpcPrefix)) {
      add_rpc_devices(name.substr(kRpcPrefix.size()), devices);
      continue;
    }
    ggml_backend_dev_t device = ggml_backend_dev_by_name(name.c_str());
    if (!device) {
      std::string known;
      for (const DeviceInfo& info : list_devices())
        known += (known.empty() ? "" : ", ") + info.name;
      throw InvalidRequestError("devices must name devices of this machine (" + known + "); got '" +
                                name + "'");
    }
    devices.push_back(device);
  }
  return devices;
}

bool has_gpu(const std::vector<std::string>& names) {
  if (!names.empty()) {
    for (ggml_backend_dev_t device : find_devices(names)) {
      if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU) return true;
    }
    return false;
  }
  for (const DeviceInfo& info : list_devices()) {
    if (info.kind == "gpu" || info.kind == "integrated_gpu") return true;
  }
  return false;
}

}  // namespace llamaherd

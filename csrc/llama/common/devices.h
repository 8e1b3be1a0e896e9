#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ggml-backend.h"

namespace llamaherd {

/// A device that llama.cpp can use.
struct DeviceInfo {
  std::string name;  // as in EngineConfig.devices
  std::string description;
  std::string kind;  // cpu, gpu, integrated_gpu or accelerator
  std::string backend;
  std::uint64_t memory_free = 0;   // bytes
  std::uint64_t memory_total = 0;  // bytes
};

std::vector<DeviceInfo> list_devices();

/// CPU features and build options of ggml that are enabled, e.g. {"AVX512_VNNI", "1"}.
std::vector<std::pair<std::string, std::string>> cpu_features();

/// The devices of these names; "rpc://HOST:PORT" means those of an RPC server. Throws
/// InvalidRequestError for an unknown name.
std::vector<ggml_backend_dev_t> find_devices(const std::vector<std::string>& names);

/// Whether a device other than the CPU may be used.
bool has_gpu(const std::vector<std::string>& names);

/// Loads backends and sets up logging and kernels. Idempotent. Call it before any other use of
/// llama.cpp.
void init_llama();

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ggml-backend.h"

namespace llamaherd {

/// A device llama.cpp can compute on.
struct DeviceInfo {
  std::string name;  // as EngineConfig.devices takes it
  std::string description;
  std::string kind;  // cpu, gpu, integrated_gpu or accelerator
  std::string backend;
  std::uint64_t memory_free = 0;   // bytes
  std::uint64_t memory_total = 0;  // bytes
};

std::vector<DeviceInfo> list_devices();

/// ggml's CPU features and build switches that are on, e.g. {"AVX512_VNNI", "1"}.
std::vector<std::pair<std::string, std::string>> cpu_features();

/// The devices of these names; "rpc://HOST:PORT" stands for those of an RPC server. Throws
/// InvalidRequestError for a name that no device has.
std::vector<ggml_backend_dev_t> find_devices(const std::vector<std::string>& names);

/// Whether the model can run on anything but the CPU.
bool has_gpu(const std::vector<std::string>& names);

/// Loads backends and sets up logging and kernels. Idempotent; before any other use of llama.cpp.
void init_llama();

}  // namespace llamaherd

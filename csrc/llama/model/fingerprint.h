#pragma once

#include <string>

#include "config/params.h"
#include "llama/model/llama_model.h"

namespace llamaherd {

/// Identifies everything that affects the meaning of saved KV data: the model's files, llama.cpp's
/// commit, the KV type and the attention kernels. Reads the files completely. Throws ModelLoadError
/// if one cannot be read.
std::string kv_fingerprint(const LlamaModel& model, const std::string& path,
                           const EngineConfig& config, const std::string& llama_commit);

}  // namespace llamaherd

#pragma once

#include <string>

#include "config/params.h"
#include "llama/model/llama_model.h"

namespace llamaherd {

/// Names all that decides what saved KV data means: the bytes of the model's files, llama.cpp's
/// commit, the KV type and how attention was computed. Reads the files whole. Throws ModelLoadError
/// if one cannot be read.
std::string kv_fingerprint(const LlamaModel& model, const std::string& path,
                           const EngineConfig& config, const std::string& llama_commit);

}  // namespace llamaherd

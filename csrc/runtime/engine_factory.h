#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backend/fault_script.h"
#include "backend/recording_backend.h"
#include "config/params.h"
#include "cost/calibration.h"
#include "engine/engine_thread.h"
#include "llama/chat/chat_template.h"
#include "llama/model/llama_model.h"

namespace llamaherd {

/// A loaded model and its chat template. Shared by the engine and by callers that tokenize.
struct Model {
  LlamaModel llama;
  ChatTemplate chat;

  Model(const std::string& path, const EngineConfig& config, LoadProgress& progress)
      : llama(path, config, progress), chat(llama, config.chat_template) {}
};

/// Inputs of an engine besides its options.
struct EngineInputs {
  EngineThread::Mode mode = EngineThread::Mode::kThreaded;
  std::optional<Calibration> calibration = {};    // none: measured if EngineConfig::warmup
  std::string build = {};                         // identifies llama.cpp in cache file names
  std::shared_ptr<LogitsRecord> record = {};      // for tests: records the logits
  std::shared_ptr<FaultScript> faults = nullptr;  // for tests: injects backend faults
};

struct MadeEngine {
  std::shared_ptr<Model> model;
  BackendInfo info;
  std::optional<Calibration> calibration;  // used for planning
  std::unique_ptr<EngineThread> engine;
};

/// Loads a model, warms it up and starts its engine. Throws InvalidRequestError for invalid
/// options, ModelLoadError for a model that cannot be loaded.
MadeEngine make_engine(const std::string& path, const EngineConfig& config, LoadProgress& progress,
                       EngineInputs inputs);

}  // namespace llamaherd

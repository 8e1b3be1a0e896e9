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

/// What an engine is made with, beside its options.
struct EngineInputs {
  EngineThread::Mode mode = EngineThread::Mode::kThreaded;
  std::optional<Calibration> calibration = {};    // none: measured, with EngineConfig::warmup
  std::string build = {};                         // identifies llama.cpp in names of cache files
  std::shared_ptr<LogitsRecord> record = {};      // for tests: notes what the backend is given
  std::shared_ptr<FaultScript> faults = nullptr;  // for tests: makes the backend fail
};

struct MadeEngine {
  std::shared_ptr<Model> model;
  BackendInfo info;
  std::optional<Calibration> calibration;  // that the engine plans by
  std::unique_ptr<EngineThread> engine;
};

/// Loads a model, warms it up and starts its engine. Throws InvalidRequestError for options that
/// break a rule, ModelLoadError for a model that cannot be loaded.
MadeEngine make_engine(const std::string& path, const EngineConfig& config, LoadProgress& progress,
                       EngineInputs inputs);

}  // namespace llamaherd

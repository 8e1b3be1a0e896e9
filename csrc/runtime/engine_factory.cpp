#include "runtime/engine_factory.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "llama/backend/llama_backend.h"
#include "llama/common/log_sink.h"
#include "llama/model/fingerprint.h"
#include "llama/testing/faulty_backend.h"

namespace llamaherd {
namespace {

// Longer than the lifetime of any engine.
constexpr double kEternityNs = 1e18;

CacheOptions cache_options(const std::string& path, const EngineConfig& config,
                           const LlamaModel& model, const BackendInfo& info,
                           const std::string& build) {
  CacheOptions options;
  options.enabled = config.prefix_cache && info.n_holders > 0;
  if (!options.enabled) return options;
  options.max_ram_bytes = std::int64_t{config.cache_ram_mib} << 20;
  options.warn = [](const std::string& text) { log_sink::add(LogLevel::kWarning, text); };
  if (config.cache_dir.empty()) return options;
  options.disk_folder = config.cache_dir;
  options.max_disk_bytes = std::int64_t{config.cache_disk_mib} << 20;
  options.fingerprint = kv_fingerprint(model, path, config, build);
  return options;
}

std::int32_t max_len(const EngineConfig& config, const BackendInfo& info) {
  if (!config.max_len) return std::min(info.n_ctx, info.n_ctx_train);
  if (*config.max_len > info.n_ctx) {
    throw InvalidRequestError("max_len must be <= n_ctx (" + std::to_string(info.n_ctx) +
                              "); got " + std::to_string(*config.max_len));
  }
  return *config.max_len;
}

PlanOptions plan_options(const EngineConfig& config, const BackendInfo& info,
                         const std::optional<Calibration>& calibration) {
  PlanOptions plan;
  plan.calibration = calibration;
  plan.prompt_lookup = config.prompt_lookup;
  plan.packing.max_prefill_rows = std::min(resolve_preset(config).token_budget, info.n_batch);
  plan.packing.max_call_rows = info.n_batch;
  plan.packing.target_itl_ns = config.target_itl_ms.value_or(0) * 1e6;
  plan.packing.may_pad = info.pad_seq != kNoSeq;
  plan.queue.weights = {config.tenant_weights.begin(), config.tenant_weights.end()};
  const double aging_ns = config.aging_s * 1e9;
  if (aging_ns < kEternityNs) plan.queue.aging_ns = static_cast<std::int64_t>(aging_ns);
  return plan;
}

/// Cost calibration: given, or measured if the options request it.
std::optional<Calibration> warmed_up(Backend& backend, const EngineConfig& config,
                                     std::optional<Calibration> known) {
  if (known) {
    validate(*known);
    warm_up(backend, {});
  } else if (config.warmup) {
    known = calibrate(backend, {});
  }
  return known;
}

std::unique_ptr<Backend> decorated(std::unique_ptr<LlamaBackend> llama, EngineInputs& inputs) {
  std::unique_ptr<Backend> backend;
  if (inputs.faults) {
    backend = std::make_unique<FaultyBackend>(std::move(llama), std::move(inputs.faults));
  } else {
    backend = std::move(llama);
  }
  if (!inputs.record) return backend;
  return std::make_unique<RecordingBackend>(std::move(backend), std::move(inputs.record));
}

}  // namespace

MadeEngine make_engine(const std::string& path, const EngineConfig& config, LoadProgress& progress,
                       EngineInputs inputs) {
  validate(config);
  MadeEngine made;
  made.model = std::make_shared<Model>(path, config, progress);
  const LlamaModel& llama = made.model->llama;
  auto backend =
      std::make_unique<LlamaBackend>(std::shared_ptr<const LlamaModel>(made.model, &llama), config);
  const BackendInfo& info = made.info = backend->info();
  CacheOptions cache = cache_options(path, config, llama, info, inputs.build);
  const Limits limits{info.n_vocab, max_len(config, info), config.max_queued,
                      config.max_queued_tokens};
  made.calibration = warmed_up(*backend, config, std::move(inputs.calibration));
  if (made.calibration) cache.costs = CostModel(*made.calibration).costs();
  made.engine = std::make_unique<EngineThread>(
      decorated(std::move(backend), inputs), llama.make_vocabulary(), limits,
      plan_options(config, info, made.calibration), inputs.mode, cache);
  return made;
}

}  // namespace llamaherd

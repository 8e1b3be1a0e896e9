#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/stop_strings.h"
#include "common/types.h"

namespace llamaherd {

inline constexpr std::int32_t kDefaultMaxTokens = 512;
inline constexpr std::size_t kMaxStopStrings = 128;
inline constexpr std::size_t kMaxStopBytes = 1024;
inline constexpr std::int32_t kMaxLogprobs = 50;
inline constexpr std::int32_t kMaxOutputs = 128;

/// Sampling and stop parameters of one request. Docs: python/llamaherd/config/params.py.
struct SamplingParams {
  std::optional<std::int32_t> max_tokens;
  std::int32_t min_tokens = 0;
  float temperature = 1.0f;
  std::int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float typical_p = 1.0f;
  bool infill = false;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::optional<std::uint64_t> seed;
  bool ignore_eos = false;
  std::vector<TokenId> stop_token_ids;
  StopStrings stop;
  bool echo = false;
  std::optional<std::int32_t> logprobs;
  std::optional<std::int32_t> prompt_logprobs;
  std::int32_t prompt_logprobs_from = 1;
  std::int32_t n = 1;
  std::optional<std::int32_t> best_of;
  bool prompt_lookup = true;
  std::vector<TokenId> preserved_tokens;  // special tokens that are shown by name
};

/// Throws InvalidRequestError if a value is out of range for every model.
void validate(const SamplingParams& params);

/// Priority, tenant and deadlines of a request. Docs: BatchEngine.submit in
/// python/llamaherd/engine/batch_engine.py.
struct SchedulingOptions {
  std::int32_t priority = 0;
  std::string tenant;
  std::optional<double> deadline_s;
  std::optional<double> ttft_deadline_s;
};

/// Throws InvalidRequestError if a value is out of range.
void validate(const SchedulingOptions& scheduling);

/// Options of an engine. Docs: python/llamaherd/config/params.py.
struct EngineConfig {
  std::string preset = "balanced";
  std::optional<std::int32_t> n_ctx;
  std::optional<std::int32_t> max_len;
  std::optional<std::int32_t> max_seqs;
  std::optional<std::int32_t> token_budget;
  std::optional<std::int32_t> n_ubatch;
  std::optional<double> target_itl_ms;
  std::optional<std::int32_t> max_queued;
  std::optional<std::int64_t> max_queued_tokens;
  double aging_s = 30;
  std::vector<std::pair<std::string, double>> tenant_weights;
  std::optional<std::int32_t> n_threads;
  std::int32_t poll = 1;
  std::int32_t n_gpu_layers = -1;
  std::vector<std::string> devices;
  std::vector<float> tensor_split;
  std::string split_mode = "layer";
  std::int32_t main_gpu = 0;
  bool use_mmap = true;
  bool use_mlock = false;
  std::string kv_type = "f16";
  std::string chat_template;
  std::string cpu_kernels = "auto";
  bool deterministic = false;
  bool prompt_lookup = true;
  bool warmup = true;
  bool prefix_cache = true;
  std::int32_t cache_ram_mib = 512;
  std::string cache_dir;
  std::int32_t cache_disk_mib = 4096;
};

/// Throws InvalidRequestError if a value is out of range for every model.
void validate(const EngineConfig& config);

/// Values of a preset.
struct Preset {
  std::int32_t max_seqs;
  std::int32_t token_budget;
};

/// Preset values, overridden by explicit options. `config` must be valid.
Preset resolve_preset(const EngineConfig& config);

/// Limits of a loaded model and engine that requests are validated against.
struct Limits {
  std::int32_t n_vocab = 0;
  std::int32_t max_len = 0;                            // of prompt and output together
  std::optional<std::int32_t> max_queued = {};         // waiting requests
  std::optional<std::int64_t> max_queued_tokens = {};  // tokens of their prompts
};

/// Throws InvalidRequestError if the prompt with these valid parameters exceeds a limit.
void validate(const std::vector<TokenId>& prompt, const SamplingParams& params,
              const Limits& limits);

}  // namespace llamaherd

#include "config/params.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdio>
#include <stdexcept>
#include <string_view>
#include <thread>

#include "common/error.h"

namespace llamaherd {
namespace {

std::string text(const std::string& value) { return "'" + value + "'"; }
template <std::integral T>
std::string text(T value) {
  return std::to_string(value);
}
std::string text(double value) {
  std::array<char, 32> buffer;
  std::snprintf(buffer.data(), buffer.size(), "%g", value);
  return buffer.data();
}

template <typename T>
void require(bool ok, std::string_view name, std::string_view rule, const T& value) {
  if (ok) return;
  throw InvalidRequestError(std::string(name) + " must be " + std::string(rule) + "; got " +
                            text(value));
}

void require_at_least(std::string_view name, std::int64_t value, std::int64_t least) {
  require(value >= least, name, ">= " + std::to_string(least), value);
}

void require_range(std::string_view name, float value, float low, float high) {
  require(value >= low && value <= high, name, "in [" + text(low) + ", " + text(high) + "]", value);
}

template <std::size_t N>
void require_one_of(std::string_view name, const std::string& value,
                    const std::array<std::string_view, N>& choices) {
  std::string rule = "one of";
  for (std::string_view choice : choices) {
    if (choice == value) return;
    rule += (rule.back() == 'f' ? " " : ", ") + std::string(choice);
  }
  require(false, name, rule, value);
}

struct NamedPreset {
  std::string_view name;
  Preset values;
};
constexpr std::array kPresets = {
    NamedPreset{"low_latency", {4, 512}},
    NamedPreset{"balanced", {8, 1024}},
    NamedPreset{"high_throughput", {16, 2048}},
};

constexpr std::int32_t kMaxPriority = 100;
constexpr std::size_t kMaxTenantBytes = 256;
constexpr double kMaxDeadlineS = 1e9;

void require_tenant(std::string_view name, const std::string& tenant) {
  if (tenant.size() <= kMaxTenantBytes) return;
  throw InvalidRequestError(std::string(name) + " must have at most " +
                            std::to_string(kMaxTenantBytes) + " bytes; got " +
                            std::to_string(tenant.size()));
}

void require_seconds(std::string_view name, const std::optional<double>& value) {
  if (value) require(*value > 0 && *value <= kMaxDeadlineS, name, "in (0, 1e9] seconds", *value);
}

// Sequence ids above the running ones, up to 255, are used by the prefix cache.
constexpr std::int32_t kMaxSeqs = 64;

// Threads synchronize after every operation: with far more threads than CPUs computation stalls.
constexpr std::int32_t kThreadsPerCpu = 4;

std::int32_t max_threads() {
  const auto n_cpus = static_cast<std::int32_t>(std::thread::hardware_concurrency());
  return kThreadsPerCpu * std::clamp(n_cpus, 1, 512);
}

/// llama.cpp accepts any number and clamps it to the rows of a call.
void validate_ubatch(std::int32_t n_ubatch, const Preset& preset) {
  require(n_ubatch >= 16 && n_ubatch <= 4096, "n_ubatch", "in [16, 4096]", n_ubatch);
  require(n_ubatch >= preset.max_seqs, "n_ubatch",
          ">= max_seqs (" + text(preset.max_seqs) + "), one row per sequence", n_ubatch);
  require(n_ubatch <= preset.token_budget, "n_ubatch",
          "<= token_budget (" + text(preset.token_budget) + ")", n_ubatch);
}

}  // namespace

void validate(const SamplingParams& p) {
  if (p.max_tokens) require_at_least("max_tokens", *p.max_tokens, p.prompt_logprobs ? 0 : 1);
  require_at_least("min_tokens", p.min_tokens, 0);
  if (p.max_tokens && p.min_tokens > *p.max_tokens) {
    throw InvalidRequestError("min_tokens must be <= max_tokens; got min_tokens " +
                              text(p.min_tokens) + " and max_tokens " + text(*p.max_tokens));
  }
  require_range("temperature", p.temperature, 0.0f, 100.0f);
  require_at_least("top_k", p.top_k, 0);
  require(p.top_p > 0.0f && p.top_p <= 1.0f, "top_p", "in (0, 1]", p.top_p);
  require_range("min_p", p.min_p, 0.0f, 1.0f);
  require(p.typical_p > 0.0f && p.typical_p <= 1.0f, "typical_p", "in (0, 1]", p.typical_p);
  require_range("repetition_penalty", p.repetition_penalty, 0.01f, 100.0f);
  require_range("frequency_penalty", p.frequency_penalty, -2.0f, 2.0f);
  require_range("presence_penalty", p.presence_penalty, -2.0f, 2.0f);
  for (const auto& [token, bias] : p.logit_bias) {
    // Bounded: sums must be distinguishable from NaN or inf computed by the model.
    require((bias >= -1000.0f && bias <= 1000.0f) || bias == -INFINITY, "logit_bias",
            "in [-1000, 1000] or -inf for token " + text(token), bias);
  }
  if (p.stop.size() > kMaxStopStrings) {
    throw InvalidRequestError("stop must have at most " + std::to_string(kMaxStopStrings) +
                              " strings; got " + std::to_string(p.stop.size()));
  }
  for (const auto& [name, n] :
       {std::pair{"logprobs", p.logprobs}, std::pair{"prompt_logprobs", p.prompt_logprobs}}) {
    if (n) require(*n >= 0 && *n <= kMaxLogprobs, name, "in [0, " + text(kMaxLogprobs) + "]", *n);
  }
  require_at_least("prompt_logprobs_from", p.prompt_logprobs_from, 1);
  require(p.n >= 1 && p.n <= kMaxOutputs, "n", "in [1, " + text(kMaxOutputs) + "]", p.n);
  if (p.best_of) {
    require(*p.best_of >= p.n && *p.best_of <= kMaxOutputs, "best_of",
            "in [n, " + text(kMaxOutputs) + "], with n " + text(p.n), *p.best_of);
  }
  for (const std::string& stop : p.stop.texts()) {
    require(!stop.empty(), "stop", "a list of non-empty strings", stop);
    if (stop.size() > kMaxStopBytes) {
      throw InvalidRequestError("a stop string must have at most " + std::to_string(kMaxStopBytes) +
                                " bytes; got " + std::to_string(stop.size()));
    }
  }
}

void validate(const SchedulingOptions& s) {
  require(s.priority >= 0 && s.priority <= kMaxPriority, "priority",
          "in [0, " + text(kMaxPriority) + "]", s.priority);
  require_tenant("tenant", s.tenant);
  require_seconds("deadline_s", s.deadline_s);
  require_seconds("ttft_deadline_s", s.ttft_deadline_s);
}

void validate(const EngineConfig& c) {
  std::array<std::string_view, kPresets.size()> names;
  for (std::size_t i = 0; i < names.size(); ++i) names[i] = kPresets[i].name;
  require_one_of("preset", c.preset, names);
  if (c.n_ctx) require_at_least("n_ctx", *c.n_ctx, 1);
  if (c.max_len) require_at_least("max_len", *c.max_len, 2);
  if (c.max_seqs) {
    require(*c.max_seqs >= 1 && *c.max_seqs <= kMaxSeqs, "max_seqs",
            "in [1, " + std::to_string(kMaxSeqs) + "]", *c.max_seqs);
  }
  if (c.token_budget) {
    require(*c.token_budget >= 64 && *c.token_budget <= 65536, "token_budget", "in [64, 65536]",
            *c.token_budget);
  }
  if (c.n_ubatch) validate_ubatch(*c.n_ubatch, resolve_preset(c));
  if (c.target_itl_ms) {
    require(std::isfinite(*c.target_itl_ms) && *c.target_itl_ms > 0, "target_itl_ms",
            "finite and > 0", *c.target_itl_ms);
  }
  if (c.max_queued) require_at_least("max_queued", *c.max_queued, 1);
  if (c.max_queued_tokens) require_at_least("max_queued_tokens", *c.max_queued_tokens, 1);
  require(c.aging_s > 0 && !std::isnan(c.aging_s), "aging_s", "> 0", c.aging_s);
  for (const auto& [tenant, weight] : c.tenant_weights) {
    require_tenant("a name in tenant_weights", tenant);
    require(weight >= 1e-6 && weight <= 1e6, "tenant_weights", "in [1e-6, 1e6] for " + text(tenant),
            weight);
  }
  if (c.n_threads) {
    const std::int32_t n_most = max_threads();
    require(*c.n_threads >= 1 && *c.n_threads <= n_most, "n_threads",
            "in [1, " + text(n_most) + "], " + text(kThreadsPerCpu) + " per CPU", *c.n_threads);
  }
  require(c.poll >= 0 && c.poll <= 100, "poll", "in [0, 100]", c.poll);
  require_at_least("n_gpu_layers", c.n_gpu_layers, -1);
  require_one_of("split_mode", c.split_mode,
                 std::array<std::string_view, 3>{"none", "layer", "row"});
  require_at_least("main_gpu", c.main_gpu, 0);
  for (float share : c.tensor_split) {
    require(std::isfinite(share) && share >= 0.0f, "tensor_split", "finite and >= 0", share);
  }
  require_one_of("kv_type", c.kv_type,
                 std::array<std::string_view, 9>{"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0",
                                                 "q4_1", "q4_0", "iq4_nl"});
  require_one_of("cpu_kernels", c.cpu_kernels,
                 std::array<std::string_view, 3>{"auto", "stock", "reference"});
  if (c.deterministic && c.cpu_kernels == "stock") {
    throw InvalidRequestError(
        "cpu_kernels must be auto or reference with deterministic=True; got stock");
  }
  require_at_least("cache_ram_mib", c.cache_ram_mib, 0);
  require_at_least("cache_disk_mib", c.cache_disk_mib, 1);
  if (c.deterministic && c.kv_type != "f16" && c.kv_type != "f32") {
    throw InvalidRequestError("kv_type must be f16 or f32 with deterministic=True; got " +
                              c.kv_type);
  }
}

Preset resolve_preset(const EngineConfig& config) {
  for (const NamedPreset& preset : kPresets) {
    if (preset.name != config.preset) continue;
    return {config.max_seqs.value_or(preset.values.max_seqs),
            config.token_budget.value_or(preset.values.token_budget)};
  }
  throw std::logic_error("resolve_preset: unvalidated preset " + config.preset);
}

void validate(const std::vector<TokenId>& prompt, const SamplingParams& params,
              const Limits& limits) {
  if (prompt.empty()) throw InvalidRequestError("prompt must have at least 1 token; got 0");
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= 0 && prompt[i] < limits.n_vocab) continue;
    throw InvalidRequestError("prompt token ids must be in [0, " + text(limits.n_vocab) +
                              "); got " + text(prompt[i]) + " at index " + std::to_string(i));
  }
  const auto n_prompt = static_cast<std::int64_t>(prompt.size());
  const std::int64_t n_most = limits.max_len - (params.max_tokens == 0 ? 0 : 1);
  if (n_prompt > n_most) {
    throw ContextLengthError(limits.max_len, "tokens (max_len), output included; the prompt has",
                             n_prompt);
  }
  if (params.max_tokens == 0 && n_prompt < 2) {
    throw InvalidRequestError("prompt must have at least 2 tokens with max_tokens 0; got 1");
  }
  if (params.prompt_logprobs) {
    require(params.prompt_logprobs_from <= std::max<std::int64_t>(1, n_prompt - 1),
            "prompt_logprobs_from",
            "less than the number of prompt tokens (" + std::to_string(n_prompt) + ")",
            params.prompt_logprobs_from);
  }
  for (const auto& [token, bias] : params.logit_bias) {
    require(token >= 0 && token < limits.n_vocab, "a token id in logit_bias",
            "in [0, " + text(limits.n_vocab) + ")", token);
  }
  for (TokenId token : params.stop_token_ids) {
    require(token >= 0 && token < limits.n_vocab, "a token id in stop_token_ids",
            "in [0, " + text(limits.n_vocab) + ")", token);
  }
}

}  // namespace llamaherd

#include "llama/model/llama_model.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/error.h"
#include "fit.h"
#include "kernels/ggml/panel_buffer.h"
#include "llama/common/abort_guard.h"
#include "llama/common/devices.h"
#include "llama/common/kernel_choice.h"
#include "llama/common/log_sink.h"
#include "llama/common/thread_pool.h"
#include "llama/model/gguf_check.h"
#include "llama/model/load_rule.h"
#include "llama/model/model_check.h"

namespace llamaherd {
namespace {

// Left free on each device, as llama.cpp's estimate is incomplete.
constexpr std::size_t kDeviceMargin = std::size_t{1} << 30;

void check_file(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) throw ModelLoadError("no such file: " + path);
  if (std::filesystem::is_directory(status)) throw ModelLoadError(path + " is a folder");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ModelLoadError("cannot open " + path + ": " + std::strerror(errno));
  std::array<char, 4> magic{};
  file.read(magic.data(), magic.size());
  if (file.gcount() < 4 || std::memcmp(magic.data(), "GGUF", 4) != 0) {
    throw ModelLoadError(path + " is not a GGUF file: it does not begin with 'GGUF'");
  }
}

llama_split_mode split_mode_of(const std::string& name) {
  if (name == "none") return LLAMA_SPLIT_MODE_NONE;
  return name == "row" ? LLAMA_SPLIT_MODE_ROW : LLAMA_SPLIT_MODE_LAYER;
}

llama_load_mode load_mode_of(const EngineConfig& config) {
  if (config.use_mmap) return config.use_mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP;
  return config.use_mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE;
}

/// llama.cpp's load parameters and the arrays that they point to.
struct LoadParams {
  llama_model_params params = llama_model_default_params();
  std::vector<ggml_backend_dev_t> devices;
  std::vector<float> tensor_split;
  std::vector<llama_model_tensor_buft_override> overrides;

  LoadParams(const std::string& path, const EngineConfig& config) {
    if (!config.devices.empty()) {
      for (ggml_backend_dev_t device : find_devices(config.devices)) {
        if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU)
          devices.push_back(device);
      }
      devices.push_back(nullptr);
      params.devices = devices.data();
    }
    params.split_mode = split_mode_of(config.split_mode);
    params.load_mode = load_mode_of(config);
    params.main_gpu = config.main_gpu;
    params.n_gpu_layers = config.n_gpu_layers;
    params.use_extra_bufts = choose_kernels(config) != kernels::Mode::kReference;
    tensor_split = config.tensor_split;
    tensor_split.resize(llama_max_devices(), 0.0f);
    if (!config.tensor_split.empty()) {
      params.tensor_split = tensor_split.data();
    } else if (config.n_gpu_layers < 0 && has_gpu(config.devices)) {
      fit(path, config);
    }
  }

 private:
  /// Offloads as many layers as fit into the devices' free memory.
  void fit(const std::string& path, const EngineConfig& config) {
    llama_context_params context = llama_context_default_params();
    if (config.n_ctx) context.n_ctx = *config.n_ctx;
    overrides.resize(llama_max_tensor_buft_overrides());
    std::vector<std::size_t> margins(llama_max_devices(), kDeviceMargin);
    common_fit_params(path.c_str(), &params, &context, tensor_split.data(), overrides.data(),
                      margins.data(), context.n_ctx, nullptr, GGML_LOG_LEVEL_ERROR);
    log_sink::install();  // the call above replaced the log callback
  }
};

}  // namespace

LlamaModel::LlamaModel(const std::string& path, const EngineConfig& config,
                       LoadProgress& progress) {
  init_llama();
  check_file(path);
  on_gpu_ = config.n_gpu_layers != 0 && has_gpu(config.devices);
  if (config.deterministic && on_gpu_) {
    throw InvalidRequestError("deterministic=True requires the CPU; set n_gpu_layers=0");
  }
  check_gguf(path);
  const AbortGuard guard;
  LoadParams load(path, config);
  load.params.progress_callback_user_data = &progress;
  load.params.progress_callback = [](float fraction, void* data) {
    auto& progress = *static_cast<LoadProgress*>(data);
    progress.fraction = fraction;
    return !progress.cancelled;
  };

  const log_sink::ErrorCapture errors;
  const kernels::LoadScope scope(choose_kernels(config),
                                 config.n_threads.value_or(default_n_threads()));
  try {
    model_.reset(llama_model_load_from_file(path.c_str(), load.params));
  } catch (const std::exception& error) {
    throw ModelLoadError("cannot load " + path + ": " + error.what());
  }
  if (progress.cancelled) throw ModelLoadError("loading " + path + " was cancelled");
  if (!model_) throw ModelLoadError("cannot load " + path + ": " + errors.text());
  if (llama_model_has_encoder(model_.get()) || !llama_model_has_decoder(model_.get())) {
    throw ModelLoadError(path + " has an encoder; only decoder-only models can generate");
  }
  if (llama_model_is_diffusion(model_.get())) {
    throw ModelLoadError(path + " is a diffusion model; only autoregressive models can generate");
  }
  if (llama_vocab_type(vocab()) == LLAMA_VOCAB_TYPE_NONE) {
    throw ModelLoadError(path + " has no vocabulary");
  }
  check_rules(path, [&] { check_model(*model_); });
  const auto meta = [&](const char* key) {
    std::array<char, 64> value{};
    llama_model_meta_val_str(model_.get(), key, value.data(), value.size());
    return std::string(value.data());
  };
  tokenizer_ = std::make_unique<Tokenizer>(vocab(), meta("tokenizer.ggml.model"),
                                           meta("tokenizer.ggml.pre"));
}

Vocabulary LlamaModel::make_vocabulary() const {
  const AbortGuard guard;
  Vocabulary table;
  for (TokenId token = 0; token < llama_vocab_n_tokens(vocab()); ++token) {
    table.add(piece(token, false), llama_vocab_is_eog(vocab(), token), piece(token, true));
  }
  return table;
}

std::string LlamaModel::piece(TokenId token, bool special) const {
  std::string piece(64, '\0');
  const auto run = [&] {
    return llama_token_to_piece(vocab(), token, piece.data(),
                                static_cast<std::int32_t>(piece.size()), 0, special);
  };
  std::int32_t n = run();
  if (n < 0) {
    piece.resize(-n);
    n = run();
  }
  piece.resize(n);
  return piece;
}

std::string LlamaModel::detokenize(const std::vector<TokenId>& tokens, bool special) const {
  std::string text(tokens.size() * 4 + 16, '\0');
  const auto run = [&] {
    return llama_detokenize(vocab(), tokens.data(), static_cast<std::int32_t>(tokens.size()),
                            text.data(), static_cast<std::int32_t>(text.size()), false, special);
  };
  std::int32_t n = run();
  if (n < 0) {
    text.resize(-n);
    n = run();
  }
  text.resize(n);
  return text;
}

std::vector<std::pair<std::string, std::string>> LlamaModel::metadata() const {
  std::vector<std::pair<std::string, std::string>> pairs;
  const auto read = [&](auto&& get, std::int32_t i) {
    std::string value(256, '\0');
    const std::int32_t n = get(model_.get(), i, value.data(), value.size());
    if (n >= static_cast<std::int32_t>(value.size())) {
      value.resize(n + 1);
      get(model_.get(), i, value.data(), value.size());
    }
    value.resize(std::max(n, 0));
    return value;
  };
  for (std::int32_t i = 0; i < llama_model_meta_count(model_.get()); ++i) {
    pairs.emplace_back(read(llama_model_meta_key_by_index, i),
                       read(llama_model_meta_val_str_by_index, i));
  }
  return pairs;
}

std::string LlamaModel::description() const {
  std::array<char, 256> buffer{};
  llama_model_desc(model_.get(), buffer.data(), buffer.size());
  return buffer.data();
}

std::string LlamaModel::memory_kind() const {
  if (llama_model_is_hybrid(model_.get())) return "hybrid";
  if (llama_model_is_recurrent(model_.get())) return "recurrent";
  return llama_model_n_swa(model_.get()) > 0 ? "sliding_window" : "plain";
}

}  // namespace llamaherd

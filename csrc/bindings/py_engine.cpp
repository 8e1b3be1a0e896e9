#include "bindings/py_engine.h"

#include <algorithm>
#include <utility>

#include "bindings/released_gil.h"
#include "bindings/values.h"
#include "common/error.h"
#include "llama/common/log_sink.h"

namespace llamaherd {
namespace {

// Longer waits would block the shutdown of the interpreter.
constexpr double kMaxDrainS = 0.1;

}  // namespace

PyBatchEngine::PyBatchEngine(const std::string& path, const EngineConfig& config,
                             LoadProgress& progress, EngineInputs inputs)
    : pid_(getpid()) {
  const ReleasedGil release;
  inputs.build = LLAMAHERD_LLAMA_COMMIT;
  MadeEngine made = make_engine(path, config, progress, std::move(inputs));
  calibration_ = std::move(made.calibration);
  info_ = made.info;
  model_ = std::move(made.model);
  engine_ = std::move(made.engine);
}

PyBatchEngine::~PyBatchEngine() {
  if (getpid() != pid_) {
    // A forked child has no threads: joining one would block.
    (void)engine_.release();
    (void)new std::shared_ptr<Model>(std::move(model_));
    return;
  }
  const ReleasedGil release;
  engine_.reset();
}

EngineThread& PyBatchEngine::engine() {
  if (getpid() != pid_) {
    throw EngineDeadError("an engine cannot be used after fork: created in process " +
                          std::to_string(pid_) + ", called in process " + std::to_string(getpid()) +
                          "; create a new engine in this process");
  }
  return *engine_;
}

void PyBatchEngine::close() {
  engine().close();
  const std::lock_guard lock(model_mutex_);
  model_.reset();
}

RequestId PyBatchEngine::submit(const py::object& prompt, std::shared_ptr<SamplingParams> params,
                                bool streamed, std::optional<CacheNamespace> cache_space,
                                const SchedulingOptions& scheduling,
                                const std::optional<py::buffer>& mask,
                                const std::vector<std::string>& triggers) {
  std::vector<TokenId> tokens = to_tokens(prompt);
  SubmitOptions options{streamed, cache_space};
  if (mask || !triggers.empty()) {
    options.constraint =
        std::make_shared<Constraint>(mask ? to_mask(*mask) : TokenMask(), triggers);
  }
  const ReleasedGil release;
  return engine().submit(std::move(tokens), SharedValue<SamplingParams>(std::move(params)), options,
                         scheduling);
}

void PyBatchEngine::set_mask(RequestId id, std::int32_t index, const py::buffer& mask) {
  TokenMask words = to_mask(mask);
  const ReleasedGil release;
  engine().set_mask(id, index, std::move(words));
}

std::vector<Delta> PyBatchEngine::drain(double timeout_s) {
  const std::string incident = engine().take_incident();
  if (!incident.empty()) log_sink::add(LogLevel::kWarning, incident);
  return engine().drain(std::min(timeout_s, kMaxDrainS));
}

void PyBatchEngine::pin(const std::string& name, const py::object& prefix,
                        CacheNamespace cache_space, std::optional<double> ttl_s) {
  std::vector<TokenId> tokens = to_tokens(prefix);
  const ReleasedGil release;
  const auto ttl_ns = static_cast<std::int64_t>(ttl_s.value_or(0) * 1e9);
  engine().pin(name, cache_space, std::move(tokens), ttl_s ? steady_clock().now_ns() + ttl_ns : 0);
}

std::vector<TokenId> PyBatchEngine::tokenize(const std::string& text, bool add_special,
                                             bool parse_special, bool prompt) {
  const std::shared_ptr<Model> shared = model();
  const std::int32_t max_len = engine().limits().max_len;
  const auto require_fits = [&](std::int64_t n_tokens, const std::string& size) {
    if (!prompt || n_tokens <= max_len) return;
    throw ContextLengthError(max_len, "tokens (max_len), output included; the prompt has" + size,
                             n_tokens);
  };
  const std::string n_bytes = " " + std::to_string(text.size()) + " bytes, at least";
  if (prompt) require_fits(shared->llama.tokenizer().least_tokens(text), n_bytes);
  std::vector<TokenId> tokens = shared->llama.tokenize(text, add_special, parse_special);
  require_fits(std::ssize(tokens), "");
  return tokens;
}

void PyBatchEngine::require_token(TokenId token) const {
  if (token >= 0 && token < info_.n_vocab) return;
  throw InvalidRequestError("token ids must be in [0, " + std::to_string(info_.n_vocab) +
                            "); got " + std::to_string(token));
}

py::bytes PyBatchEngine::token_bytes(TokenId token) {
  require_token(token);
  return py::bytes(std::string(engine().table().piece(token)));
}

py::bytes PyBatchEngine::token_name(TokenId token) {
  require_token(token);
  return py::bytes(std::string(engine().table().name(token)));
}

py::str PyBatchEngine::detokenize(const py::object& ids, bool special) {
  const std::vector<TokenId> tokens = to_tokens(ids);
  for (const TokenId token : tokens) require_token(token);
  const std::shared_ptr<Model> shared = model();
  std::string bytes;
  {
    const ReleasedGil release;
    bytes = shared->llama.detokenize(tokens, special);
  }
  return to_text(bytes);
}

ChatPrompt PyBatchEngine::apply_chat_template(std::string messages, std::string tools,
                                              std::string tool_choice, bool parallel_tool_calls,
                                              bool thinking, std::string template_kwargs,
                                              bool add_generation_prompt,
                                              std::optional<bool> continue_final_message) {
  const std::shared_ptr<Model> shared = model();
  return shared->chat.apply(
      shared->llama,
      {std::move(messages), std::move(tools), std::move(tool_choice), parallel_tool_calls, thinking,
       std::move(template_kwargs), add_generation_prompt, continue_final_message});
}

namespace {

/// The fill-in-the-middle tokens that the vocabulary has, by role.
py::dict fim_tokens(const llama_vocab* vocab) {
  py::dict tokens;
  for (const auto& [role, token] : {std::pair("prefix", llama_vocab_fim_pre(vocab)),
                                    {"suffix", llama_vocab_fim_suf(vocab)},
                                    {"middle", llama_vocab_fim_mid(vocab)},
                                    {"repository", llama_vocab_fim_rep(vocab)},
                                    {"file_separator", llama_vocab_fim_sep(vocab)}}) {
    if (token != LLAMA_TOKEN_NULL) tokens[role] = token;
  }
  return tokens;
}

}  // namespace

py::typing::Dict<py::str, py::object> PyBatchEngine::model_info() {
  const std::shared_ptr<Model> shared = model();
  const LlamaModel& llama = shared->llama;
  py::typing::Dict<py::str, py::object> d;
  d["description"] = to_text(llama.description());
  d["n_params"] = llama_model_n_params(llama.get());
  d["n_bytes"] = llama_model_size(llama.get());
  d["n_vocab"] = info_.n_vocab;
  d["n_layer"] = llama_model_n_layer(llama.get());
  d["n_embd"] = llama_model_n_embd(llama.get());
  d["n_ctx_train"] = info_.n_ctx_train;
  d["n_ctx"] = info_.n_ctx;
  d["max_len"] = engine().limits().max_len;
  d["max_seqs"] = info_.n_seqs;
  d["memory_kind"] = llama.memory_kind();
  d["prefix_sharing"] = prefix_sharing();
  d["has_chat_template"] = shared->chat.exists();
  const llama_vocab* vocab = llama.vocab();
  const TokenId bos = llama_vocab_bos(vocab);
  d["bos_token"] = bos == LLAMA_TOKEN_NULL ? py::object(py::none()) : py::object(py::int_(bos));
  d["adds_bos"] = llama_vocab_get_add_bos(vocab);
  d["fim_tokens"] = fim_tokens(vocab);
  py::dict metadata;
  for (const auto& [key, value] : llama.metadata()) metadata[to_text(key)] = to_text(value);
  d["metadata"] = metadata;
  return d;
}

std::string PyBatchEngine::prefix_sharing() const {
  if (info_.n_holders == 0) return "none";
  return info_.partial_removal ? "any_prefix" : "snapshots";
}

std::shared_ptr<Model> PyBatchEngine::model() {
  engine();
  const std::lock_guard lock(model_mutex_);
  if (!model_) throw EngineDeadError("the engine is closed");
  return model_;
}

}  // namespace llamaherd

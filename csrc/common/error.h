#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace llamaherd {

/// Base class of all errors that llamaherd throws to callers.
struct LlamaHerdError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A request breaks a rule. The message states the rule and the value.
struct InvalidRequestError : LlamaHerdError {
  using LlamaHerdError::LlamaHerdError;
};

/// A prompt or a text has more tokens than the model's context. The message contains both numbers.
struct ContextLengthError : InvalidRequestError {
  /// `rule` continues the sentence from max_len to the number of tokens.
  ContextLengthError(std::int32_t max_len_, const std::string& rule, std::int64_t n_prompt_tokens_,
                     const std::string& remedy = "shorten it")
      : InvalidRequestError("this model's maximum context length is " + std::to_string(max_len_) +
                            " " + rule + " " + std::to_string(n_prompt_tokens_) + ": " + remedy),
        n_prompt_tokens(n_prompt_tokens_),
        max_len(max_len_) {}
  std::int64_t n_prompt_tokens;  // a lower bound if thrown before tokenization
  std::int32_t max_len;
};

/// The queue is full. The message states the limit. A request of this size is expected to find a
/// place after retry_after_s seconds.
struct QueueFullError : LlamaHerdError {
  QueueFullError(const std::string& what, double retry_after)
      : LlamaHerdError(what), retry_after_s(retry_after) {}
  double retry_after_s;
};

/// The model file cannot be used. The message states the cause.
struct ModelLoadError : LlamaHerdError {
  using LlamaHerdError::LlamaHerdError;
};

/// The model is for embeddings only and generates no tokens.
struct NotGenerativeError : ModelLoadError {
  using ModelLoadError::ModelLoadError;
};

/// The engine is closed or has stopped after a fatal error. The message contains the first cause.
struct EngineDeadError : LlamaHerdError {
  using LlamaHerdError::LlamaHerdError;
};

}  // namespace llamaherd

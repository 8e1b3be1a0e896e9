#pragma once

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

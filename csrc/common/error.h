#pragma once

#include <stdexcept>
#include <string>

namespace llamaherd {

/// Base of everything llamaherd throws at a caller.
struct LlamaHerdError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller's request breaks a rule; the message states the rule and the value.
struct InvalidRequestError : LlamaHerdError {
  using LlamaHerdError::LlamaHerdError;
};

/// Too many requests wait already; the message states the bound. An equal one is expected to find a
/// place after retry_after_s seconds.
struct QueueFullError : LlamaHerdError {
  QueueFullError(const std::string& what, double retry_after)
      : LlamaHerdError(what), retry_after_s(retry_after) {}
  double retry_after_s;
};

/// The model file cannot be used; the message says why.
struct ModelLoadError : LlamaHerdError {
  using LlamaHerdError::LlamaHerdError;
};

/// The model computes no next token: it is made for embeddings alone.
struct NotGenerativeError : ModelLoadError {
  using ModelLoadError::ModelLoadError;
};

/// The engine is closed or stopped after a fatal error; the message holds the first cause.
struct EngineDeadError : LlamaHerdError {
  using LlamaHerdError::LlamaHerdError;
};

}  // namespace llamaherd

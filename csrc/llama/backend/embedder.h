#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "config/params.h"
#include "llama.h"
#include "llama/backend/context.h"
#include "llama/common/thread_pool.h"
#include "llama/model/llama_model.h"

namespace llamaherd {

/// Computes one vector or one score per text, in a context of its own; texts share calls. Vectors
/// are pooled from those of the tokens here, not in llama.cpp's graph, whose pooling type is fixed
/// for a context.
/// Thread-safe; calls are serialized.
class Embedder {
 public:
  /// `config` must be valid. `pooling`: mean, cls, last or rank; empty: the model's. Throws
  /// InvalidRequestError if it is another, or rank without a ranking head, ModelLoadError if the
  /// context cannot be created.
  Embedder(std::shared_ptr<const LlamaModel> model, const EngineConfig& config,
           const std::string& pooling);

  /// Empty: none is given and the model has none.
  const std::string& pooling() const { return pooling_; }
  /// Size of each text's vector; with pooling rank, the number of scores.
  std::int32_t n_out() const { return n_out_; }
  /// Most tokens of one text.
  std::int32_t max_len() const { return max_len_; }
  /// Number of calls so far.
  std::int64_t n_calls() const { return n_calls_; }

  /// Tokens of a text, including the model's special tokens. A text that is too long is truncated
  /// at its end; `n_whole` is its number of tokens before.
  std::vector<TokenId> encode(const std::string& text, std::size_t* n_whole) const;

  /// The same for a text that is given as tokens, to which none are added. Throws
  /// InvalidRequestError if an id is out of range.
  std::vector<TokenId> encode(std::vector<TokenId> tokens, std::size_t* n_whole) const;

  /// Each text must have 1 to max_len() tokens. `out` has shape [texts.size()][n_out()]. `pooling`:
  /// mean, cls or last; empty: pooling(). Throws InvalidRequestError if it does not fit the model.
  void embed(std::span<const std::vector<TokenId>> texts, const std::string& pooling,
             std::span<float> out);

  /// Tokens of a query and a document for models with pooling rank. The document is truncated if
  /// they are too long. Throws ContextLengthError if the query leaves no room for it.
  std::vector<TokenId> pair(const std::string& query, const std::string& document,
                            std::size_t* n_whole) const;

 private:
  const std::string& pooling_for(const std::string& given) const;
  void compute(std::span<const std::vector<TokenId>> texts, std::span<const std::size_t> some,
               const std::string& pooling, std::span<float> out);
  void pool(std::size_t begin, std::size_t n_tokens, const std::string& pooling,
            std::span<float> out);

  std::shared_ptr<const LlamaModel> model_;
  std::string pooling_;
  std::int32_t n_out_ = 0, max_len_ = 0, n_rows_ = 0;
  std::int64_t n_calls_ = 0;
  std::mutex mutex_;
  ThreadPool threads_;  // must outlive the context that uses it
  ContextPtr context_;
  BatchPtr batch_;
};

}  // namespace llamaherd

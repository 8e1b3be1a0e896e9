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

/// One vector for each text, or one score, in a context of its own: many texts share each call.
/// Thread-safe; one call at a time.
class Embedder {
 public:
  /// `config` must be valid. `pooling`: mean, cls, last or rank; empty: the model's. Throws
  /// InvalidRequestError if the model has none and none is given, ModelLoadError if the context
  /// cannot be made.
  Embedder(std::shared_ptr<const LlamaModel> model, const EngineConfig& config,
           const std::string& pooling);

  const std::string& pooling() const { return pooling_; }
  /// Numbers of each text's vector; with rank the model's scores.
  std::int32_t n_out() const { return n_out_; }
  /// Tokens that one text can have.
  std::int32_t max_len() const { return max_len_; }
  /// Calls made so far.
  std::int64_t n_calls() const { return n_calls_; }

  /// The tokens of a text, the model's special ones with them. One that is too long loses what
  /// stands at its end.
  std::vector<TokenId> encode(const std::string& text, bool* was_cut) const;

  /// Each text has 1 to max_len() tokens; `out` has room for [texts.size()][n_out()].
  void embed(std::span<const std::vector<TokenId>> texts, std::span<float> out);

  /// The tokens by which a model of pooling rank reads a query and a document, of which the latter
  /// is cut if they are too long. Throws InvalidRequestError if the query leaves it no room.
  std::vector<TokenId> pair(const std::string& query, const std::string& document,
                            bool* was_cut) const;

 private:
  void compute(std::span<const std::vector<TokenId>> texts, std::span<const std::size_t> some,
               std::span<float> out);

  std::shared_ptr<const LlamaModel> model_;
  std::string pooling_;
  std::int32_t n_out_ = 0, max_len_ = 0, n_rows_ = 0;
  std::int64_t n_calls_ = 0;
  std::mutex mutex_;
  ThreadPool threads_;  // outlives the context that is attached to it
  ContextPtr context_;
  BatchPtr batch_;
};

}  // namespace llamaherd

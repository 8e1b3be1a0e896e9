#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/vocabulary.h"
#include "config/params.h"
#include "llama.h"
#include "llama/model/tokenizer.h"

namespace llamaherd {

/// Progress of a load, shared by the loading thread and observers that may cancel it.
struct LoadProgress {
  std::atomic<float> fraction = 0.0f;  // of the weights
  std::atomic<bool> cancelled = false;
};

/// A loaded GGUF model: weights and vocabulary. Const methods are thread-safe.
class LlamaModel {
 public:
  /// Loads `path`; of a split GGUF, the first part. Throws ModelLoadError with the cause.
  LlamaModel(const std::string& path, const EngineConfig& config, LoadProgress& progress);

  llama_model* get() const { return model_.get(); }
  const llama_vocab* vocab() const { return llama_model_get_vocab(model_.get()); }
  bool on_gpu() const { return on_gpu_; }

  Vocabulary make_vocabulary() const;

  /// A token's bytes. For special tokens: their name with `special`, else empty.
  std::string piece(TokenId token, bool special) const;

  const Tokenizer& tokenizer() const { return *tokenizer_; }

  /// See Tokenizer::encode().
  std::vector<TokenId> tokenize(const std::string& text, bool add_special,
                                bool parse_special) const {
    return tokenizer_->encode(text, add_special, parse_special);
  }

  /// Bytes, not always valid UTF-8. Ids must be in range.
  std::string detokenize(const std::vector<TokenId>& tokens, bool special) const;

  /// The file's scalar key-value pairs as strings.
  std::vector<std::pair<std::string, std::string>> metadata() const;

  std::string description() const;

  /// plain, sliding_window, recurrent or hybrid.
  std::string memory_kind() const;

 private:
  struct Free {
    void operator()(llama_model* model) const { llama_model_free(model); }
  };
  std::unique_ptr<llama_model, Free> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  bool on_gpu_ = false;
};

}  // namespace llamaherd

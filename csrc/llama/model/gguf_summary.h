#pragma once

#include <cstdint>
#include <string>

namespace llamaherd {

/// What the header of a GGUF file states of its model. Numbers are 0 and texts empty where it
/// states nothing.
struct GgufSummary {
  std::string architecture;
  std::string weight_type;  // llama.cpp's name, such as "Q4_K - Medium"
  std::string pooling;      // mean, cls, last or rank
  bool causal = true;       // attention; encoders for embeddings have none
  std::int64_t n_vocab = 0;
  std::int64_t n_embd = 0;
  std::int64_t n_ctx_train = 0;
  std::int64_t n_params = 0;  // of this file: a split model's other parts have their own
  std::int64_t n_bytes = 0;   // of its tensors
};

/// Reads the header of a GGUF file, without its tensors. Throws ModelLoadError.
GgufSummary read_summary(const std::string& path);

}  // namespace llamaherd

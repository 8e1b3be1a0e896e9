#include "llama/model/gguf_summary.h"

#include <map>

#include "ggml.h"
#include "llama.h"
#include "llama/model/gguf_file.h"
#include "llama/model/pooling.h"

namespace llamaherd {
namespace {

std::int64_t integer(const GgufFile& file, const std::string& key, std::int64_t otherwise = 0) {
  const auto values = file.integers(key);
  return values && values->size() == 1 ? values->front() : otherwise;
}

void count_tensors(const gguf_context* file, GgufSummary& summary) {
  std::map<ggml_type, std::int64_t> n_bytes;
  for (std::int64_t i = 0; i < gguf_get_n_tensors(file); ++i) {
    const ggml_type type = gguf_get_tensor_type(file, i);
    const auto size = static_cast<std::int64_t>(gguf_get_tensor_size(file, i));
    n_bytes[type] += size;
    summary.n_bytes += size;
    summary.n_params +=
        size / static_cast<std::int64_t>(ggml_type_size(type)) * ggml_blck_size(type);
  }
  std::int64_t most = 0;
  for (const auto& [type, size] : n_bytes) {
    if (size <= most) continue;
    most = size;
    summary.weight_type = ggml_type_name(type);
  }
}

}  // namespace

GgufSummary read_summary(const std::string& path) {
  const GgufFile file(path);
  GgufSummary summary;
  count_tensors(file.get(), summary);
  const std::int64_t file_type = integer(file, "general.file_type", -1);
  if (file_type >= 0 && file_type < LLAMA_FTYPE_GUESSED) {
    summary.weight_type = llama_ftype_name(static_cast<llama_ftype>(file_type));
  }
  summary.architecture = file.text("general.architecture").value_or("");
  const std::string prefix = summary.architecture + ".";
  summary.pooling = pooling_name(integer(file, prefix + "pooling_type"));
  summary.causal = integer(file, prefix + "attention.causal", 1) != 0;
  summary.n_ctx_train = integer(file, prefix + "context_length");
  summary.n_embd = integer(file, prefix + "embedding_length");
  const std::int64_t tokens = file.find("tokenizer.ggml.tokens");
  if (tokens >= 0 && gguf_get_kv_type(file.get(), tokens) == GGUF_TYPE_ARRAY) {
    summary.n_vocab = static_cast<std::int64_t>(gguf_get_arr_n(file.get(), tokens));
  }
  return summary;
}

}  // namespace llamaherd

#include "llama/backend/embedder.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "common/error.h"
#include "kernels/ggml/ggml_hook.h"
#include "llama-cparams.h"
#include "llama-model.h"
#include "llama/common/kernel_choice.h"
#include "llama/common/log_sink.h"
#include "llama/model/pooling.h"

namespace llamaherd {
namespace {

// Default tokens per call. Memory grows with their number, attention with its square.
constexpr std::int32_t kDefaultRows = 512;
constexpr std::int32_t kLongestByDefault = 2048;
constexpr const char* kRank = "rank";

bool is_vector_pooling(const std::string& name) {
  return name == "mean" || name == "cls" || name == "last";
}

void require_pooling(const std::string& name, const llama_model& model) {
  if (name == kRank && !model.cls && !model.cls_out) {
    throw InvalidRequestError(
        "pooling rank needs a model with a ranking head; this one has none: use mean, cls or last");
  }
  if (name == kRank || is_vector_pooling(name)) return;
  throw InvalidRequestError("pooling must be one of mean, cls, last, rank; got '" + name + "'");
}

}  // namespace

Embedder::Embedder(std::shared_ptr<const LlamaModel> model, const EngineConfig& config,
                   const std::string& pooling)
    : model_(std::move(model)),
      threads_(config.n_threads.value_or(default_n_threads()), config.poll, choose_kernels(config),
               kernels::BatchProfile::kManyRows) {
  pooling_ = pooling.empty() ? pooling_name(model_->get()->hparams.pooling_type) : pooling;
  if (!pooling_.empty()) require_pooling(pooling_, *model_->get());
  const std::int32_t n_ctx_train = llama_model_n_ctx_train(model_->get());
  const std::int32_t longest = std::min(n_ctx_train, config.max_len.value_or(kLongestByDefault));
  n_rows_ = config.n_ubatch.value_or(std::max(kDefaultRows, longest));
  max_len_ = std::min(n_rows_, n_ctx_train);

  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<std::uint32_t>(n_rows_);
  params.n_seq_max = static_cast<std::uint32_t>(std::min(LLAMA_MAX_SEQ, n_rows_));
  params.n_threads = params.n_threads_batch = threads_.n_threads();
  params.kv_unified = true;
  params.embeddings = true;
  params.pooling_type = pooling_ == kRank ? LLAMA_POOLING_TYPE_RANK : LLAMA_POOLING_TYPE_NONE;
  params.no_perf = true;

  {
    // A pooling type other than the model's gives a warning, which would mislead here.
    const log_sink::ErrorsOnly quiet;
    context_ = make_context(*model_, params, threads_);
  }
  n_out_ = pooling_ == kRank ? static_cast<std::int32_t>(llama_model_n_cls_out(model_->get()))
                             : llama_model_n_embd_out(model_->get());
  batch_.reset(llama_batch_ext_init(context_.get()));
}

const std::string& Embedder::pooling_for(const std::string& given) const {
  const std::string& name = given.empty() ? pooling_ : given;
  if (name == pooling_ && !name.empty()) return name;
  if (name.empty()) {
    throw InvalidRequestError(
        "the model file has no pooling type; pass pooling=\"mean\", \"cls\" or \"last\"");
  }
  require_pooling(name, *model_->get());
  if (pooling_ == kRank || name == kRank) {
    throw InvalidRequestError("pooling rank is an option of the embedder, which has " +
                              (pooling_.empty() ? "none" : pooling_) + "; got '" + name +
                              "' for a call");
  }
  return name;
}

/// Batches texts of similar length: a call's time depends on its number of tokens.
void Embedder::embed(std::span<const std::vector<TokenId>> texts, const std::string& pooling,
                     std::span<float> out) {
  const std::string& name = pooling_for(pooling);
  const std::lock_guard lock(mutex_);
  std::vector<std::size_t> order(texts.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](std::size_t i) { return texts[i].size(); });
  const auto n_most = static_cast<std::size_t>(std::min(LLAMA_MAX_SEQ, n_rows_));
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    std::size_t n_tokens = 0;
    while (end < order.size() && end - begin < n_most) {
      n_tokens += texts[order[end]].size();
      if (n_tokens > static_cast<std::size_t>(n_rows_)) break;
      ++end;
    }
    compute(texts, std::span(order).subspan(begin, end - begin), name, out);
  }
}

void Embedder::compute(std::span<const std::vector<TokenId>> texts,
                       std::span<const std::size_t> some, const std::string& pooling,
                       std::span<float> out) {
  llama_batch_ext_clear(batch_.get());
  for (std::size_t seq = 0; seq < some.size(); ++seq) {
    llama_pos pos = 0;
    for (const TokenId token : texts[some[seq]]) {
      const std::int32_t row =
          llama_batch_ext_add_token(batch_.get(), static_cast<llama_seq_id>(seq), token);
      if (row < 0) throw std::logic_error("an embedding call has no room for its texts");
      llama_batch_ext_set_pos(batch_.get(), row, &pos);
      llama_batch_ext_set_output_embd(batch_.get(), row, true);
      ++pos;
    }
  }
  llama_memory_t memory = llama_get_memory(context_.get());
  if (memory) llama_memory_clear(memory, false);
  const kernels::ComputeScope scope(threads_.get());
  const log_sink::ErrorCapture errors;
  const auto type = memory ? LLAMA_PROCESS_TYPE_DECODE : LLAMA_PROCESS_TYPE_ENCODE;
  const std::int32_t status = llama_process(context_.get(), type, batch_.get());
  if (status != 0) {
    throw LlamaHerdError("the embedding call failed (" + std::to_string(status) +
                         "): " + errors.text());
  }
  ++n_calls_;
  std::size_t begin = 0;
  for (std::size_t seq = 0; seq < some.size(); ++seq) {
    const auto n_out = static_cast<std::size_t>(n_out_);
    const std::span<float> row = out.subspan(some[seq] * n_out, n_out);
    if (pooling == kRank) {
      const float* scores =
          llama_get_embeddings_seq(context_.get(), static_cast<llama_seq_id>(seq));
      if (!scores) throw std::logic_error("no score for text " + std::to_string(some[seq]));
      std::copy_n(scores, n_out_, row.begin());
    } else {
      pool(begin, texts[some[seq]].size(), pooling, row);
    }
    begin += texts[some[seq]].size();
  }
}

/// The vector of a text from those of the call's rows [begin, begin + n_tokens).
void Embedder::pool(std::size_t begin, std::size_t n_tokens, const std::string& pooling,
                    std::span<float> out) {
  const auto vector = [&](std::size_t row) {
    const float* found =
        llama_get_embeddings_ith(context_.get(), static_cast<std::int32_t>(begin + row));
    if (!found) throw std::logic_error("no embedding for row " + std::to_string(begin + row));
    return std::span(found, out.size());
  };
  if (pooling != "mean") {
    std::ranges::copy(vector(pooling == "cls" ? 0 : n_tokens - 1), out.begin());
    return;
  }
  std::vector<double> sum(out.size());
  for (std::size_t row = 0; row < n_tokens; ++row) {
    const std::span<const float> values = vector(row);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
  }
  for (std::size_t i = 0; i < sum.size(); ++i) {
    out[i] = static_cast<float>(sum[i] / static_cast<double>(n_tokens));
  }
}

std::vector<TokenId> Embedder::encode(const std::string& text, std::size_t* n_whole) const {
  return encode(model_->tokenize(text, true, false), n_whole);
}

std::vector<TokenId> Embedder::encode(std::vector<TokenId> tokens, std::size_t* n_whole) const {
  const std::int32_t n_vocab = llama_vocab_n_tokens(model_->vocab());
  for (const TokenId token : tokens) {
    if (token >= 0 && token < n_vocab) continue;
    throw InvalidRequestError("token ids must be in [0, " + std::to_string(n_vocab) + "); got " +
                              std::to_string(token));
  }
  *n_whole = tokens.size();
  if (std::ssize(tokens) <= max_len_) return tokens;
  const TokenId last = tokens.back();
  tokens.resize(max_len_);
  if (llama_vocab_is_control(model_->vocab(), last)) tokens.back() = last;
  return tokens;
}

std::vector<TokenId> Embedder::pair(const std::string& query, const std::string& document,
                                    std::size_t* n_whole) const {
  const char* form = llama_model_chat_template(model_->get(), "rerank");
  if (form) {
    std::string text = form;
    for (const auto& [name, value] :
         {std::pair<std::string, const std::string&>("{query}", query), {"{document}", document}}) {
      const std::size_t at = text.find(name);
      if (at != std::string::npos) text.replace(at, name.size(), value);
    }
    std::vector<TokenId> tokens = model_->tokenize(text, true, true);
    *n_whole = tokens.size();
    if (std::ssize(tokens) > max_len_) tokens.resize(max_len_);
    return tokens;
  }
  std::vector<TokenId> tokens = model_->tokenize(query, true, false);
  std::vector<TokenId> behind = model_->tokenize(document, false, false);
  const TokenId sep = llama_vocab_sep(model_->vocab());
  const TokenId end = sep != LLAMA_TOKEN_NULL ? sep : llama_vocab_eos(model_->vocab());
  const std::ptrdiff_t n_ends = end != LLAMA_TOKEN_NULL ? 1 : 0;
  const std::ptrdiff_t room = max_len_ - std::ssize(tokens) - n_ends;
  if (room < 1) {
    throw ContextLengthError(max_len_,
                             "tokens (max_len), query and document together; the query has",
                             std::ssize(tokens));
  }
  *n_whole = tokens.size() + behind.size() + static_cast<std::size_t>(n_ends);
  if (std::ssize(behind) > room) behind.resize(room);
  tokens.insert(tokens.end(), behind.begin(), behind.end());
  if (n_ends > 0) tokens.push_back(end);
  return tokens;
}

}  // namespace llamaherd

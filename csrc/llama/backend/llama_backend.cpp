#include "llama/backend/llama_backend.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "common/error.h"
#include "kernels/ggml/ggml_hook.h"
#include "llama-cparams.h"
#include "llama/common/kernel_choice.h"
#include "llama/common/log_sink.h"
#include "llama/model/model_check.h"

namespace llamaherd {
namespace {

// A larger ubatch gains little on most devices, and compute buffers grow in proportion.
constexpr std::int32_t kDefaultUbatch = 512;

// Each snapshot needs a row of recurrent state: a few per running sequence.
constexpr std::int32_t kSnapshotsPerSeq = 2;

// Default n_ctx: room for all sequences at medium length, and for one at a medium context in full.
constexpr std::int32_t kDefaultCellsPerSeq = 1024;
constexpr std::int32_t kDefaultCells = 8192;

// Logits for log-probabilities are in memory twice: as computed and as copied.
constexpr std::int32_t kScoredBytes = 64 << 20;
constexpr std::int32_t kLeastScored = 16, kMostScored = 128;

ggml_type kv_type_of(const std::string& name) {
  static const std::map<std::string, ggml_type> types = {
      {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16},
      {"q8_0", GGML_TYPE_Q8_0}, {"q5_1", GGML_TYPE_Q5_1}, {"q5_0", GGML_TYPE_Q5_0},
      {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0}, {"iq4_nl", GGML_TYPE_IQ4_NL}};
  return types.at(name);
}

std::int32_t resolve_n_ctx(const EngineConfig& config, std::int32_t max_seqs,
                           std::int32_t n_ctx_train) {
  if (config.n_ctx) return *config.n_ctx;
  return std::max(std::min(n_ctx_train, kDefaultCells), max_seqs * kDefaultCellsPerSeq);
}

}  // namespace

LlamaBackend::LlamaBackend(std::shared_ptr<const LlamaModel> model, const EngineConfig& config)
    : model_(std::move(model)),
      threads_(config.n_threads.value_or(default_n_threads()), config.poll,
               choose_kernels(config)) {
  const Preset preset = resolve_preset(config);
  n_positions_ = n_positions(*model_->get());
  info_.n_vocab = llama_vocab_n_tokens(model_->vocab());
  info_.n_ctx_train = llama_model_n_ctx_train(model_->get());
  info_.n_ctx = resolve_n_ctx(config, preset.max_seqs, info_.n_ctx_train);
  info_.n_seqs = preset.max_seqs;
  info_.n_threads = threads_.n_threads();
  info_.attends_in_tiles = threads_.mode() != kernels::Mode::kFast;
  info_.n_batch = std::max(preset.token_budget, preset.max_seqs);
  info_.max_scored_rows = std::clamp(kScoredBytes / (4 * info_.n_vocab), kLeastScored, kMostScored);
  plan_ids(config);

  llama_context_params params = llama_context_default_params();
  params.n_ctx = info_.n_ctx;
  params.n_batch = info_.n_batch;
  params.n_ubatch = std::min(info_.n_batch, config.n_ubatch.value_or(kDefaultUbatch));
  params.n_seq_max = n_batch_ids_;
  params.n_outputs_max = n_outputs_max();
  params.n_threads = params.n_threads_batch = threads_.n_threads();
  params.type_k = params.type_v = kv_type_of(config.kv_type);
  params.kv_unified = true;
  params.swa_full = true;
  params.no_perf = true;
  params.abort_callback = [](void* self) { return static_cast<LlamaBackend*>(self)->stops_here(); };
  params.abort_callback_data = this;

  context_ = make_context(*model_, params, threads_);
  if (!llama_get_memory(context_.get())) {
    throw NotGenerativeError("this model generates embeddings only; use Embedder or LLM.embed()");
  }
  batch_.reset(llama_batch_ext_init(context_.get()));
}

/// Assigns sequence ids: for running sequences, for save and load, and for holders.
void LlamaBackend::plan_ids(const EngineConfig& config) {
  const std::string kind = model_->memory_kind();
  info_.partial_removal = kind == "plain" || kind == "sliding_window";
  info_.first_holder = info_.n_seqs + 1;
  n_batch_ids_ = info_.first_holder;
  if (kind == "plain") info_.pad_seq = info_.n_seqs;
  if (!config.prefix_cache) return;
  if (!info_.partial_removal) {
    // Recurrent states exist only for ids that are used in batches.
    info_.n_holders = kSnapshotsPerSeq * info_.n_seqs;
    n_batch_ids_ += info_.n_holders;
  } else if (kind == "sliding_window") {
    first_shadow_ = LLAMA_MAX_SEQ / 2;
    info_.n_holders = first_shadow_ - info_.first_holder;
    // New cells must be shadowed before the next ubatch searches for free cells.
    info_.n_batch = std::min(info_.n_batch, config.n_ubatch.value_or(kDefaultUbatch));
    // A saved sequence lacks cells outside the window of its last position.
    const std::int32_t window = llama_model_n_swa(model_->get());
    while (info_.kv_save_block > std::max(window / 2, 1) || window % info_.kv_save_block != 0) {
      info_.kv_save_block /= 2;
    }
  } else {
    info_.n_holders = LLAMA_MAX_SEQ - info_.first_holder;
  }
}

void LlamaBackend::copy(SeqId from, SeqId to, Pos begin, Pos end) {
  llama_memory_t memory = llama_get_memory(context_.get());
  llama_memory_seq_cp(memory, from, to, begin, end);
  if (first_shadow_ > 0) llama_memory_seq_cp(memory, from, first_shadow_ + to, begin, end);
}

bool LlamaBackend::remove(SeqId seq, Pos begin, Pos end) {
  llama_memory_t memory = llama_get_memory(context_.get());
  if (first_shadow_ > 0) llama_memory_seq_rm(memory, first_shadow_ + seq, begin, end);
  return llama_memory_seq_rm(memory, seq, begin, end);
}

std::vector<std::byte> LlamaBackend::save(SeqId seq, Pos begin, Pos end) {
  // llama.cpp cannot restore data saved from an id that is not used in batches.
  copy(seq, scratch(), begin, end);
  std::vector<std::byte> data(llama_state_seq_get_size_ext(context_.get(), scratch(), 0));
  const std::size_t n = llama_state_seq_get_data_ext(
      context_.get(), reinterpret_cast<std::uint8_t*>(data.data()), data.size(), scratch(), 0);
  remove(scratch(), 0, -1);
  if (n != data.size()) return {};
  return data;
}

bool LlamaBackend::load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) {
  const std::size_t n = llama_state_seq_set_data_ext(
      context_.get(), reinterpret_cast<const std::uint8_t*>(data.data()), data.size(), scratch(),
      0);
  const bool loaded = n == data.size() && length(scratch()) >= end;
  if (loaded) copy(scratch(), seq, begin, end);
  remove(scratch(), 0, -1);
  return loaded && length(seq) == end;
}

/// Gives every new cell a second owner.
void LlamaBackend::shadow_new_cells(const BatchView& batch) {
  llama_memory_t memory = llama_get_memory(context_.get());
  for (std::size_t row = 0; row < batch.seqs.size(); ++row) {
    const SeqId seq = batch.seqs[row];
    if (row > 0 && batch.seqs[row - 1] == seq) continue;
    llama_memory_seq_cp(memory, seq, first_shadow_ + seq, batch.positions[row], -1);
  }
}

/// Validates conditions on which llama.cpp would abort the process, and fills the batch.
bool LlamaBackend::fill(const BatchView& batch) {
  const auto n_rows = static_cast<std::int32_t>(batch.tokens.size());
  const auto n_outputs = std::count(batch.wants_logits.begin(), batch.wants_logits.end(), 1);
  if (n_rows == 0 || n_rows > info_.n_batch || n_outputs > n_outputs_max()) return false;
  llama_batch_ext_clear(batch_.get());
  for (std::int32_t row = 0; row < n_rows; ++row) {
    if (n_positions_ > 0 && batch.positions[row] >= n_positions_) return false;
    if (llama_batch_ext_add_token(batch_.get(), batch.seqs[row], batch.tokens[row]) != row) {
      return false;
    }
    llama_batch_ext_set_pos(batch_.get(), row, &batch.positions[row]);
    llama_batch_ext_set_output_logits(batch_.get(), row, batch.wants_logits[row] != 0);
  }
  return true;
}

DecodeStatus LlamaBackend::decode(const BatchView& batch) {
  if (!fill(batch)) return DecodeStatus::kInvalidBatch;
  const kernels::ComputeScope scope(threads_.get());
  const std::int32_t status =
      llama_process(context_.get(), LLAMA_PROCESS_TYPE_DECODE, batch_.get());
  n_nodes_left_ = kAllNodes;
  switch (status) {
    case 0:
      // Waits for the GPU: the duration of the call is measured here, not when logits are read.
      llama_synchronize(context_.get());
      if (first_shadow_ > 0) shadow_new_cells(batch);
      return DecodeStatus::kOk;
    case 1:
      return DecodeStatus::kNoRoom;
    case 2:
      return DecodeStatus::kAborted;
    case -1:
      return DecodeStatus::kInvalidBatch;
    default:
      throw std::runtime_error("llama_process returned " + std::to_string(status));
  }
}

std::span<float> LlamaBackend::logits(std::int32_t row) {
  float* logits = llama_get_logits_ith(context_.get(), row);
  if (!logits) throw std::logic_error("no logits for batch row " + std::to_string(row));
  return {logits, static_cast<std::size_t>(info_.n_vocab)};
}

void LlamaBackend::run_in_parallel(std::int32_t n, const ParallelTask& task) {
  threads_.run(n, llama_n_threads(context_.get()), task);
}

Pos LlamaBackend::length(SeqId seq) const {
  return llama_memory_seq_pos_max(llama_get_memory(context_.get()), seq) + 1;
}

void LlamaBackend::clear() { llama_memory_clear(llama_get_memory(context_.get()), true); }

}  // namespace llamaherd

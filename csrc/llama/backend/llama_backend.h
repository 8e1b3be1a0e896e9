#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>

#include "backend/backend.h"
#include "config/params.h"
#include "llama.h"
#include "llama/backend/context.h"
#include "llama/common/thread_pool.h"
#include "llama/model/llama_model.h"

namespace llamaherd {

/// Backend implementation on a llama_context.
class LlamaBackend final : public Backend {
 public:
  /// `config` must be valid. Throws ModelLoadError if the context cannot be created.
  LlamaBackend(std::shared_ptr<const LlamaModel> model, const EngineConfig& config);

  const BackendInfo& info() const override { return info_; }
  bool remove(SeqId seq, Pos begin, Pos end) override;
  void copy(SeqId from, SeqId to, Pos begin, Pos end) override;
  std::vector<std::byte> save(SeqId seq, Pos begin, Pos end) override;
  bool load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) override;
  void use_threads(std::int32_t n) override { llama_set_n_threads(context_.get(), n, n); }
  DecodeStatus decode(const BatchView& batch) override;
  std::span<float> logits(std::int32_t row) override;
  void run_in_parallel(std::int32_t n, const ParallelTask& task) override;
  Pos length(SeqId seq) const override;
  void clear() override;
  void abort(bool set) override { abort_ = set; }

  /// The next decode() returns kAborted after n graph nodes on the CPU, unless it ends earlier. For
  /// tests.
  void abort_after(std::int64_t n) { n_nodes_left_ = n; }

 private:
  static constexpr std::int64_t kAllNodes = std::numeric_limits<std::int64_t>::max();

  bool stops_here() { return --n_nodes_left_ < 0 || abort_.load(std::memory_order_relaxed); }
  bool fill(const BatchView& batch);
  void plan_ids(const EngineConfig& config);
  SeqId scratch() const { return info_.n_seqs; }
  std::int32_t n_outputs_max() const { return n_batch_ids_ + info_.max_scored_rows; }
  void shadow_new_cells(const BatchView& batch);

  std::shared_ptr<const LlamaModel> model_;
  BackendInfo info_;
  std::int32_t n_batch_ids_ = 0;  // llama.cpp's n_seq_max
  std::int32_t n_positions_ = 0;  // learned positions; 0: positions are computed
  // With a sliding window llama.cpp reuses a cell that has left the window of its only sequence,
  // even with swa_full; a prefix that ends before it could then not be shared. Each id therefore
  // has a shadow id that holds the same cells. 0: no window.
  SeqId first_shadow_ = 0;
  std::atomic<bool> abort_ = false;
  std::int64_t n_nodes_left_ = kAllNodes;  // written by the thread that calls decode()
  ThreadPool threads_;                     // must outlive the context that uses it
  ContextPtr context_;
  BatchPtr batch_;
};

}  // namespace llamaherd

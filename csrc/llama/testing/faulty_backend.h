#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/fault_script.h"
#include "llama/backend/llama_backend.h"

namespace llamaherd {

/// A LlamaBackend with real faults from a script: aborted graphs, exhausted memory, NaN in K/V
/// data. For tests.
class FaultyBackend final : public Backend {
 public:
  FaultyBackend(std::unique_ptr<LlamaBackend> inner, std::shared_ptr<FaultScript> script)
      : inner_(std::move(inner)), script_(std::move(script)) {}

  const BackendInfo& info() const override { return inner_->info(); }
  bool remove(SeqId seq, Pos begin, Pos end) override { return inner_->remove(seq, begin, end); }
  void copy(SeqId from, SeqId to, Pos begin, Pos end) override {
    inner_->copy(from, to, begin, end);
  }
  std::vector<std::byte> save(SeqId seq, Pos begin, Pos end) override {
    return inner_->save(seq, begin, end);
  }
  bool load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) override {
    return inner_->load(seq, begin, end, data);
  }
  /// Throws std::bad_alloc if the script requires it, and std::logic_error if the cells of a call
  /// cannot be poisoned because the memory has no cell per token.
  DecodeStatus decode(const BatchView& batch) override;
  std::span<float> logits(std::int32_t row) override;
  void run_in_parallel(std::int32_t n, const ParallelTask& task) override {
    inner_->run_in_parallel(n, task);
  }
  Pos length(SeqId seq) const override { return inner_->length(seq); }
  void clear() override { inner_->clear(); }
  void use_threads(std::int32_t n) override { inner_->use_threads(n); }
  void abort(bool set) override { inner_->abort(set); }

 private:
  DecodeStatus decode_exhausted(const BatchView& batch, std::int64_t n_bytes);
  DecodeStatus decode_poisonous(const BatchView& batch);
  DecodeStatus decode_part(const BatchView& batch, std::size_t begin, std::size_t end);
  void poison(const BatchView& batch, std::size_t begin, std::size_t end);
  void poison(SeqId seq, Pos begin, Pos end);

  std::unique_ptr<LlamaBackend> inner_;
  std::shared_ptr<FaultScript> script_;
  std::map<std::int32_t, std::vector<float>> logits_;  // by row, for a call decoded in parts
};

}  // namespace llamaherd

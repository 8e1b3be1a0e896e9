#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "backend.h"

namespace llamaherd {

/// Fingerprints of logits rows by the tokens they were computed from, so that two runs can be
/// compared to the bit whatever order, batch or sequence id each row was computed in. Thread-safe.
class LogitsRecord {
 public:
  /// Hashes (FNV-1a, 64 bits) of every row seen for a token prefix's hash, in the order they came.
  using Rows = std::map<std::uint64_t, std::vector<std::uint64_t>>;

  void add(std::uint64_t prefix, std::uint64_t row) {
    const std::lock_guard lock(mutex_);
    rows_[prefix].push_back(row);
  }
  Rows rows() const {
    const std::lock_guard lock(mutex_);
    return rows_;
  }

 private:
  mutable std::mutex mutex_;
  Rows rows_;
};

/// Passes everything on and notes each logits row that is asked for.
class RecordingBackend final : public Backend {
 public:
  RecordingBackend(std::unique_ptr<Backend> inner, std::shared_ptr<LogitsRecord> record)
      : inner_(std::move(inner)),
        record_(std::move(record)),
        tokens_(static_cast<std::size_t>(inner_->info().n_seqs)) {}

  const BackendInfo& info() const override { return inner_->info(); }

  bool apply(const KvOp& op) override { return inner_->apply(op); }

  DecodeStatus decode(const BatchView& batch) override {
    prefixes_.resize(batch.tokens.size());
    for (std::size_t row = 0; row < batch.tokens.size(); ++row) {
      // Whatever a sequence holds up to this position was decoded, or copied, before it.
      auto& tokens = tokens_[batch.seqs[row]];
      tokens.resize(batch.positions[row], 0);
      tokens.push_back(batch.tokens[row]);
      prefixes_[row] = batch.wants_logits[row] ? fingerprint(tokens) : 0;
    }
    return inner_->decode(batch);
  }

  std::span<float> logits(std::int32_t row) override {
    const std::span<float> logits = inner_->logits(row);
    record_->add(prefixes_[row], fingerprint(std::span<const float>(logits)));
    return logits;
  }

  Pos length(SeqId seq) const override { return inner_->length(seq); }
  void clear() override { inner_->clear(); }
  void abort(bool set) override { inner_->abort(set); }

 private:
  template <typename Values>
  static std::uint64_t fingerprint(const Values& values) {
    const auto bytes = std::as_bytes(std::span(values));
    std::uint64_t hash = 0xCBF29CE484222325u;
    for (std::byte b : bytes) hash = (hash ^ static_cast<std::uint64_t>(b)) * 0x100000001B3u;
    return hash;
  }

  std::unique_ptr<Backend> inner_;
  std::shared_ptr<LogitsRecord> record_;
  std::vector<std::vector<TokenId>> tokens_;  // by sequence id
  std::vector<std::uint64_t> prefixes_;       // by row of the last decode
};

}  // namespace llamaherd

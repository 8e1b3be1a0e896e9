#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/backend.h"

namespace llamaherd {

/// Hashes of logits rows by the tokens they were computed from, to compare two runs bit by bit
/// regardless of order, batches and sequence ids. Thread-safe.
class LogitsRecord {
 public:
  /// FNV-1a hashes (64 bits) of all rows of a token prefix, keyed by the prefix's hash, in order.
  using Rows = std::map<std::uint64_t, std::vector<std::uint64_t>>;

  /// Most likely token of each row and its margin over the next, in the same order.
  using Tops = std::map<std::uint64_t, std::vector<std::pair<TokenId, float>>>;

  void add(std::uint64_t prefix, std::uint64_t row, std::pair<TokenId, float> top) {
    const std::lock_guard lock(mutex_);
    rows_[prefix].push_back(row);
    tops_[prefix].push_back(top);
  }
  Tops tops() const {
    const std::lock_guard lock(mutex_);
    return tops_;
  }
  Rows rows() const {
    const std::lock_guard lock(mutex_);
    return rows_;
  }

 private:
  mutable std::mutex mutex_;
  Rows rows_;
  Tops tops_;
};

/// Forwards all calls and records each logits row that is read.
class RecordingBackend final : public Backend {
 public:
  RecordingBackend(std::unique_ptr<Backend> inner, std::shared_ptr<LogitsRecord> record)
      : inner_(std::move(inner)), record_(std::move(record)), tokens_(kMaxIds) {}

  const BackendInfo& info() const override { return inner_->info(); }

  bool remove(SeqId seq, Pos begin, Pos end) override { return inner_->remove(seq, begin, end); }

  void copy(SeqId from, SeqId to, Pos begin, Pos end) override {
    copy_tokens(tokens_[from], begin, end, tokens_[to]);
    inner_->copy(from, to, begin, end);
  }

  /// Appends the tokens to the data.
  std::vector<std::byte> save(SeqId seq, Pos begin, Pos end) override {
    std::vector<std::byte> data = inner_->save(seq, begin, end);
    const auto tokens = std::as_bytes(std::span(tokens_[seq]).first(end));
    data.insert(data.end(), tokens.begin(), tokens.end());
    const auto n = static_cast<std::uint64_t>(tokens.size());
    const auto size = std::as_bytes(std::span(&n, 1));
    data.insert(data.end(), size.begin(), size.end());
    return data;
  }

  bool load(SeqId seq, Pos begin, Pos end, std::span<const std::byte> data) override {
    std::uint64_t n = 0;
    std::memcpy(&n, data.last(sizeof n).data(), sizeof n);
    data = data.first(data.size() - sizeof n);
    std::vector<TokenId> tokens(n / sizeof(TokenId));
    std::memcpy(tokens.data(), data.last(n).data(), n);
    copy_tokens(tokens, begin, end, tokens_[seq]);
    return inner_->load(seq, begin, end, data.first(data.size() - n));
  }

  DecodeStatus decode(const BatchView& batch) override {
    prefixes_.resize(batch.tokens.size());
    for (std::size_t row = 0; row < batch.tokens.size(); ++row) {
      // The sequence's tokens below this position were decoded or copied earlier.
      auto& tokens = tokens_[batch.seqs[row]];
      tokens.resize(batch.positions[row], 0);
      tokens.push_back(batch.tokens[row]);
      prefixes_[row] = batch.wants_logits[row] ? fingerprint(tokens) : 0;
    }
    return inner_->decode(batch);
  }

  std::span<float> logits(std::int32_t row) override {
    const std::span<float> logits = inner_->logits(row);
    record_->add(prefixes_[row], fingerprint(std::span<const float>(logits)), top_of(logits));
    return logits;
  }

  Pos length(SeqId seq) const override { return inner_->length(seq); }
  void clear() override { inner_->clear(); }
  void run_in_parallel(std::int32_t n, const ParallelTask& task) override {
    inner_->run_in_parallel(n, task);
  }
  void use_threads(std::int32_t n) override { inner_->use_threads(n); }
  void abort(bool set) override { inner_->abort(set); }

 private:
  static constexpr std::size_t kMaxIds = 256;

  static void copy_tokens(const std::vector<TokenId>& from, Pos begin, Pos end,
                          std::vector<TokenId>& to) {
    const std::size_t last = end < 0 ? from.size() : static_cast<std::size_t>(end);
    if (to.size() < last) to.resize(last, 0);
    for (auto pos = static_cast<std::size_t>(begin); pos < last; ++pos) to[pos] = from[pos];
  }

  static std::pair<TokenId, float> top_of(std::span<const float> logits) {
    const auto first = std::max_element(logits.begin(), logits.end());
    float next = -std::numeric_limits<float>::infinity();
    for (auto it = logits.begin(); it != logits.end(); ++it) {
      if (it != first) next = std::max(next, *it);
    }
    return {static_cast<TokenId>(first - logits.begin()), *first - next};
  }

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

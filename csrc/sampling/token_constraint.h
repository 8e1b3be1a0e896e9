#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/types.h"
#include "common/vocabulary.h"

namespace llamaherd {

/// Which tokens may be next: bit t % 32 of word t / 32 for token t. Empty: any.
using TokenMask = std::vector<std::uint32_t>;

/// What one request's output must obey: masks that are made elsewhere, one for each output token,
/// while the model computes. Thread-safe.
class Constraint {
 public:
  /// `first` is the first token's mask. With `triggers`, which are texts, no masks are needed until
  /// one of them stands in the output.
  explicit Constraint(TokenMask first, std::vector<std::string> triggers = {});

  std::size_t n_words() const { return first_.size(); }

  /// The same at its beginning, for one output. `table`, whose names of special tokens are text for
  /// triggers, must outlive it.
  std::shared_ptr<Constraint> fresh(const Vocabulary& table) const;

  /// The mask of output token `index`. One that is late or early is dropped or waited for.
  void put(std::int32_t index, TokenMask mask);
  /// There is no mask and will be none.
  void fail(const std::string& error);

  /// Whether the next token can be judged without waiting.
  bool ready() const;
  /// Waits until it can; returns whether it can.
  bool wait(std::chrono::nanoseconds timeout);

  /// What has gone wrong, or empty: nothing can be judged then.
  std::string error() const;

  /// Whether any token may be next.
  bool allows_all() const;

  /// The one token that may be next, if there is but one.
  std::optional<TokenId> only() const;

  /// Sets the logits of tokens that may not be next to -inf.
  void mask_logits(std::span<float> logits) const;

  /// The token has become output.
  void accept(TokenId token) noexcept;

 private:
  bool has_mask() const { return is_free_ || !error_.empty() || index_ == n_accepted_; }
  bool is_triggered_by(std::string_view text);

  const TokenMask first_;
  const std::vector<std::string> triggers_;
  const Vocabulary* table_ = nullptr;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  TokenMask mask_;
  bool is_free_;            // no trigger stands in the output yet
  std::string tail_;        // of the output's text, as long as a trigger's beginning can be
  std::int32_t index_ = 0;  // the output token that mask_ is of
  std::int32_t n_accepted_ = 0;
  std::string error_;
};

}  // namespace llamaherd

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

/// Allowed tokens: bit t % 32 of word t / 32 for token t. Empty: all.
using TokenMask = std::vector<std::uint32_t>;

/// Constraint of one request's output: masks, one per output token, that are computed elsewhere in
/// parallel with the forward pass. Thread-safe.
class Constraint {
 public:
  /// `first` is the first token's mask. With `triggers`, which are strings, no masks are needed
  /// until the output contains one of them.
  explicit Constraint(TokenMask first, std::vector<std::string> triggers = {});

  std::size_t n_words() const { return first_.size(); }

  /// A copy in the initial state, for one output. `table`, which must outlive it, has the names of
  /// special tokens that triggers may contain.
  std::shared_ptr<Constraint> clone(const Vocabulary& table) const;

  /// Sets the mask of output token `index`, replacing the previous mask. ready() once that token is
  /// the next.
  void put(std::int32_t index, TokenMask mask);
  /// Allows all tokens from the next one on; no masks are needed any more.
  void lift();
  /// No mask is available, now or later.
  void fail(const std::string& error);

  /// Whether the next token can be sampled without waiting.
  bool ready() const;
  /// Waits until ready(); returns ready().
  bool wait(std::chrono::nanoseconds timeout);

  /// The cause of a failure, after which nothing can be sampled; else empty.
  std::string error() const;

  /// Whether all tokens are allowed.
  bool allows_all() const;

  /// The only allowed token, if there is exactly one.
  std::optional<TokenId> forced_token() const;

  /// Sets the logits of tokens that are not allowed to -inf.
  void mask_logits(std::span<float> logits) const;

  /// Appends the token to the output.
  void accept(TokenId token) noexcept;

 private:
  bool has_mask() const { return is_free_ || !error_.empty() || index_ == n_accepted_; }
  bool is_triggered_by(std::string_view text);

  const TokenMask first_;
  const std::vector<std::string> triggers_;
  const Vocabulary* table_ = nullptr;
  mutable std::mutex mutex_;  // guards all members below
  std::condition_variable changed_;
  TokenMask mask_;
  bool is_free_;  // the output contains no trigger yet, or the constraint was lifted
  bool is_lifted_ = false;
  std::string tail_;        // end of the output's text, as long as an incomplete trigger can be
  std::int32_t index_ = 0;  // output token of mask_
  std::int32_t n_accepted_ = 0;
  std::string error_;
};

}  // namespace llamaherd

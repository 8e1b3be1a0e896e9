#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "types.h"

namespace llamaherd {

/// What one request's output must obey: judges its next token, and is told which it was. Used by
/// one thread at a time, but for what an implementation says.
class Constraint {
 public:
  virtual ~Constraint() = default;

  /// The same at its beginning, for another output of the same prompt.
  virtual std::shared_ptr<Constraint> fresh() const = 0;

  /// Whether the next token can be judged without waiting.
  virtual bool ready() const { return true; }
  /// Waits until it can.
  enum class Wait { kReady, kLate, kAbandoned };
  virtual Wait wait(std::chrono::nanoseconds) { return Wait::kReady; }

  /// What has gone wrong with it, or empty: nothing can be judged then.
  virtual std::string error() const = 0;

  /// Whether to draw a token first and ask allows(), and restrict() only if it is refused. Where
  /// restrict() is cheap it comes first, and tokens come from the restricted distribution whatever
  /// the sampler cuts off.
  virtual bool draws_first() const = 0;
  virtual bool allows(TokenId token) = 0;

  /// The one token that may be next, if there is but one and that is cheap to know.
  virtual std::optional<TokenId> only() const { return std::nullopt; }

  /// Sets the logits of tokens that may not be next to -inf.
  virtual void restrict(std::span<float> logits) = 0;

  /// The token has become output.
  virtual void accept(TokenId token) noexcept = 0;
};

}  // namespace llamaherd

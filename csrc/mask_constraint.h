#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "constraint.h"

namespace llamaherd {

/// Which tokens may be next: bit t % 32 of word t / 32 for token t.
using TokenMask = std::vector<std::uint32_t>;

/// Masks that are made elsewhere, one for each output token, while the model computes.
class MaskConstraint final : public Constraint {
 public:
  explicit MaskConstraint(TokenMask first) : first_(std::move(first)), mask_(first_) {}

  std::size_t n_words() const { return first_.size(); }

  /// The mask of output token `index`. Any thread; one that is late or early is dropped or waited
  /// for.
  void put(std::int32_t index, TokenMask mask);
  /// There is no mask and will be none. Any thread.
  void fail(const std::string& error);
  /// Nobody wants the output any more: who waits for a mask need not. Any thread.
  void abandon();

  std::shared_ptr<Constraint> fresh() const override {
    return std::make_shared<MaskConstraint>(first_);
  }
  bool ready() const override;
  Wait wait(std::chrono::nanoseconds timeout) override;
  std::string error() const override;
  bool draws_first() const override { return false; }
  bool allows(TokenId token) override;
  std::optional<TokenId> only() const override;
  void restrict(std::span<float> logits) override;
  void accept(TokenId token) noexcept override;

 private:
  bool has_mask() const { return !error_.empty() || index_ == n_accepted_; }

  const TokenMask first_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  TokenMask mask_;
  std::int32_t index_ = 0;  // the output token that mask_ is of
  std::int32_t n_accepted_ = 0;
  bool abandoned_ = false;
  std::string error_;
};

}  // namespace llamaherd

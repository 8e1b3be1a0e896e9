#include "mask_constraint.h"

#include <bit>
#include <limits>

namespace llamaherd {

void MaskConstraint::put(std::int32_t index, TokenMask mask) {
  const std::lock_guard lock(mutex_);
  index_ = index;
  mask_ = std::move(mask);
  changed_.notify_all();
}

void MaskConstraint::fail(const std::string& error) {
  const std::lock_guard lock(mutex_);
  error_ = error;
  changed_.notify_all();
}

bool MaskConstraint::ready() const {
  const std::lock_guard lock(mutex_);
  return has_mask();
}

void MaskConstraint::abandon() {
  const std::lock_guard lock(mutex_);
  abandoned_ = true;
  changed_.notify_all();
}

Constraint::Wait MaskConstraint::wait(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return abandoned_ || has_mask(); });
  if (has_mask()) return Wait::kReady;
  return abandoned_ ? Wait::kAbandoned : Wait::kLate;
}

std::string MaskConstraint::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

bool MaskConstraint::allows(TokenId token) {
  const std::lock_guard lock(mutex_);
  return mask_[token / 32] >> (token % 32) & 1;
}

std::optional<TokenId> MaskConstraint::only() const {
  const std::lock_guard lock(mutex_);
  std::optional<TokenId> found;
  for (std::size_t i = 0; i < mask_.size(); ++i) {
    if (mask_[i] == 0) continue;
    if (found || !std::has_single_bit(mask_[i])) return std::nullopt;
    found = static_cast<TokenId>(32 * i) + std::countr_zero(mask_[i]);
  }
  return found;
}

void MaskConstraint::restrict(std::span<float> logits) {
  const std::lock_guard lock(mutex_);
  for (std::size_t begin = 0; begin < logits.size(); begin += 32) {
    const std::uint32_t word = mask_[begin / 32];
    if (word == ~std::uint32_t{0}) continue;
    const std::size_t n = std::min<std::size_t>(32, logits.size() - begin);
    for (std::size_t i = 0; i < n; ++i) {
      logits[begin + i] =
          word >> i & 1 ? logits[begin + i] : -std::numeric_limits<float>::infinity();
    }
  }
}

void MaskConstraint::accept(TokenId) noexcept {
  const std::lock_guard lock(mutex_);
  ++n_accepted_;
}

}  // namespace llamaherd

#include "sampling/token_constraint.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

namespace llamaherd {

Constraint::Constraint(TokenMask first, std::vector<std::string> triggers)
    : first_(std::move(first)),
      triggers_(std::move(triggers)),
      mask_(first_),
      is_free_(!triggers_.empty()) {}

std::shared_ptr<Constraint> Constraint::clone(const Vocabulary& table) const {
  auto made = std::make_shared<Constraint>(first_, triggers_);
  made->table_ = &table;
  return made;
}

void Constraint::put(std::int32_t index, TokenMask mask) {
  const std::lock_guard lock(mutex_);
  index_ = index;
  mask_ = std::move(mask);
  changed_.notify_all();
}

void Constraint::lift() {
  const std::lock_guard lock(mutex_);
  is_free_ = is_lifted_ = true;
  mask_.clear();
  changed_.notify_all();
}

void Constraint::fail(const std::string& error) {
  const std::lock_guard lock(mutex_);
  error_ = error;
  changed_.notify_all();
}

bool Constraint::ready() const {
  const std::lock_guard lock(mutex_);
  return has_mask();
}

bool Constraint::wait(std::chrono::nanoseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return has_mask(); });
}

std::string Constraint::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

bool Constraint::allows_all() const {
  const std::lock_guard lock(mutex_);
  return error_.empty() && (is_free_ || mask_.empty());
}

std::optional<TokenId> Constraint::forced_token() const {
  const std::lock_guard lock(mutex_);
  std::optional<TokenId> found;
  for (std::size_t i = 0; i < mask_.size(); ++i) {
    if (mask_[i] == 0) continue;
    if (found || !std::has_single_bit(mask_[i])) return std::nullopt;
    found = static_cast<TokenId>(32 * i) + std::countr_zero(mask_[i]);
  }
  return found;
}

void Constraint::mask_logits(std::span<float> logits) const {
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

void Constraint::accept(TokenId token) noexcept {
  const std::lock_guard lock(mutex_);
  ++n_accepted_;
  if (!is_free_ || is_lifted_) return;
  try {
    is_free_ = !is_triggered_by(table_->name(token));
  } catch (const std::exception&) {
    is_free_ = false;  // require masks from now on: they are valid without a trigger, too
  }
}

bool Constraint::is_triggered_by(std::string_view text) {
  tail_ += text;
  std::size_t longest = 0;
  for (const std::string& trigger : triggers_) {
    if (tail_.find(trigger) != std::string::npos) return true;
    longest = std::max(longest, trigger.size());
  }
  if (tail_.size() >= longest) tail_.erase(0, tail_.size() - longest + 1);
  return false;
}

}  // namespace llamaherd

#include "cache/reuse_model.h"

#include <algorithm>
#include <cmath>

namespace llamaherd {
namespace {

// The prior of each class: tokens, and of them those used again. A few prompts outweigh it.
constexpr double kPriorTokens = 6400;
constexpr double kPriorReused = 0.3 * kPriorTokens;

}  // namespace

std::size_t ReuseModel::class_of(std::int64_t n_uses) {
  constexpr std::array<std::int64_t, kClasses - 1> kLast = {1, 2, 3, 4, 6, 9, 15};
  return static_cast<std::size_t>(std::ranges::lower_bound(kLast, n_uses) - kLast.begin());
}

double ReuseModel::odds(std::size_t c) const {
  const Class& k = classes_[c];
  return (k.n_reused + kPriorReused) / (k.n - k.n_reused + kPriorTokens - kPriorReused);
}

double ReuseModel::weight(std::int64_t n_uses) const {
  const double most = std::log2(static_cast<double>(n_uses));
  return std::clamp(std::log2(odds(class_of(n_uses)) / odds(0)), 0.0, most);
}

double ReuseModel::mean_gap() const { return n_reused_ > 0 ? gap_sum_ / n_reused_ : 0; }

void ReuseModel::touch(Usage& usage, std::int64_t n) {
  const auto weight_of_piece = static_cast<double>(n);
  if (usage.n_uses > 0) {
    gap_sum_ += weight_of_piece * static_cast<double>(clock_ - usage.last_use);
    n_reused_ += weight_of_piece;
    classes_[class_of(usage.n_uses)].n_reused += weight_of_piece;
  }
  ++usage.n_uses;
  usage.last_use = clock_;
  grow(usage, n);
  const double g = mean_gap();
  const double u = g * g / (g + capacity_);
  usage.score = static_cast<double>(clock_) + u * weight(usage.n_uses);
}

void ReuseModel::grow(const Usage& usage, std::int64_t n) {
  classes_[class_of(usage.n_uses)].n += static_cast<double>(n);
}

}  // namespace llamaherd

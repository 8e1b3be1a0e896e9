#pragma once

#include <array>
#include <cstdint>

namespace llamaherd {

/// How a cached piece was used so far, and what that is worth: of what may go, the lowest score
/// goes first. Set by ReuseModel::touch().
struct Usage {
  std::int64_t n_uses = 0;
  std::int64_t last_use = 0;
  double score = 0;
};

/// Learns, while it runs, how much more likely what was used several times is to be used again than
/// what was used once, and how long that takes. Time is counted in tokens that came into the cache,
/// so that a cache of C cells is turned over once in C.
///
/// A piece scores the time of its last use plus U x w. w = log2 of the odds of another use after as
/// many uses, relative to the odds after one; no more than log2 of the uses, so that uses count
/// only as far as they were seen to predict any. U = g^2 / (g + C), with g the mean time between
/// two uses of a piece: with a cache that holds what one such time brings in, recency alone is near
/// the best (U -> 0); with one much smaller, a doubling of the odds is worth waiting one g longer.
/// Pieces that were evicted count too: their usage should be kept for about 16 C.
class ReuseModel {
 public:
  explicit ReuseModel(std::int64_t capacity) : capacity_(static_cast<double>(capacity)) {}

  /// n tokens came in.
  void advance(std::int64_t n) { clock_ += n; }

  /// A piece of n tokens is used, for the first time or again.
  void touch(Usage& usage, std::int64_t n);

  /// A piece grew by n tokens.
  void grow(const Usage& usage, std::int64_t n);

  /// Mean time between two uses; 0 before there was a second one.
  double mean_gap() const;

 private:
  // Uses 1, 2, 3, 4, 5-6, 7-9, 10-15, 16 and more.
  static constexpr std::size_t kClasses = 8;
  struct Class {
    double n = 0;         // tokens that came to have so many uses
    double n_reused = 0;  // of them, used again
  };

  static std::size_t class_of(std::int64_t n_uses);
  double weight(std::int64_t n_uses) const;
  double odds(std::size_t c) const;

  double capacity_;
  std::int64_t clock_ = 0;
  double gap_sum_ = 0;
  double n_reused_ = 0;
  std::array<Class, kClasses> classes_;
};

}  // namespace llamaherd

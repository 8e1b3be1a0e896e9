#pragma once

#include <array>
#include <cstdint>

namespace llamaherd {

/// Uses of a cached prefix or piece of one so far. Of the evictable ones, that of the lowest score
/// is evicted first. Set by ReuseModel::touch().
struct Usage {
  std::int64_t n_uses = 0;
  std::int64_t last_use = 0;
  double score = 0;
};

/// Learns online how much likelier another use becomes with the number of uses, and how long it
/// takes. The unit of time is one token added to the cache, so that a cache of C cells is replaced
/// once in a time of C.
///
/// The score of a piece is the time of its last use plus U x w. w is log2 of the odds of another
/// use after as many uses, relative to the odds after one, and at most log2 of the number of uses,
/// so that uses count only as far as they were observed to predict others. U = g^2 / (g + C), with
/// g the mean time between two uses of a piece: if the cache holds all tokens added in that time,
/// recency alone is near the optimum (U -> 0); if it is much smaller, twice the odds are worth
/// keeping a piece for one g more. Pieces that were evicted count too: their usage should be kept
/// for about 16 C.
class ReuseModel {
 public:
  explicit ReuseModel(std::int64_t capacity) : capacity_(static_cast<double>(capacity)) {}

  /// n tokens were added to the cache.
  void advance(std::int64_t n) { clock_ += n; }

  /// A piece of n tokens is used, for the first time or again.
  void touch(Usage& usage, std::int64_t n);

  /// A piece grew by n tokens.
  void grow(const Usage& usage, std::int64_t n);

  /// Mean time between two uses of a piece; 0 before the first second use.
  double mean_gap() const;

 private:
  // Uses 1, 2, 3, 4, 5-6, 7-9, 10-15, 16 and more.
  static constexpr std::size_t kClasses = 8;
  struct Class {
    double n = 0;         // tokens that reached this number of uses
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

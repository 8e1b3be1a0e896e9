#include "sampling/top_k.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "sampling/logits_math.h"

namespace llamaherd {

/// Skips blocks whose maximum is below the threshold.
void collect(std::span<const float> logits, float threshold, RowScratch& s) {
  s.candidates.clear();
  for (std::size_t b = 0; b < s.block_max.size(); ++b) {
    if (!(s.block_max[b] >= threshold)) continue;
    const std::size_t end = std::min(logits.size(), (b + 1) * kLogitsBlock);
    for (std::size_t i = b * kLogitsBlock; i < end; ++i) {
      if (logits[i] >= threshold) {
        s.candidates.push_back({static_cast<TokenId>(i), logits[i], 0.0f});
      }
    }
  }
}

/// The maxima of k blocks are k logits, so at least k logits reach the k-th largest block maximum,
/// and few more do.
void collect_top_k(std::span<const float> logits, std::size_t k, RowScratch& s) {
  float threshold = -std::numeric_limits<float>::infinity();
  if (k <= s.block_max.size()) {
    s.thresholds = s.block_max;
    std::nth_element(s.thresholds.begin(), s.thresholds.begin() + (k - 1), s.thresholds.end(),
                     std::greater<>());
    threshold = s.thresholds[k - 1];
  }
  collect(logits, threshold, s);
  if (s.candidates.size() <= k) return;
  std::nth_element(s.candidates.begin(), s.candidates.begin() + (k - 1), s.candidates.end(),
                   better);
  s.candidates.resize(k);
}

}  // namespace llamaherd

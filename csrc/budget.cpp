#include "budget.h"

#include <algorithm>

namespace llamaherd {

void pack_tokens(std::span<const std::int32_t> n_pending, const Budget& budget,
                 std::span<std::int32_t> n_granted) {
  std::int32_t n_decode = 0;
  for (std::size_t i = 0; i < n_pending.size(); ++i) {
    n_granted[i] = n_pending[i] == 1 ? 1 : 0;
    n_decode += n_granted[i];
  }
  std::int32_t n_left = budget.n_rows - n_decode;
  if (n_decode > 0) n_left = std::clamp(n_left, 1, budget.n_prefill_beside_decode);

  bool any_prefill = false;
  for (std::size_t i = 0; i < n_pending.size() && n_left > 0; ++i) {
    if (n_pending[i] == 1) continue;
    std::int32_t n = std::min(n_pending[i], n_left);
    if (n < n_pending[i]) {
      const std::int32_t n_whole_tiles = n / kChunkRows * kChunkRows;
      if (n_whole_tiles > 0 || any_prefill) n = n_whole_tiles;
    }
    n_granted[i] = n;
    n_left -= n;
    any_prefill |= n > 0;
  }
}

}  // namespace llamaherd

#include "speculation/prompt_lookup.h"

#include <algorithm>

namespace llamaherd {

void propose_ngram(std::span<const TokenId> tokens, std::size_t n_most, std::vector<TokenId>& out) {
  out.clear();
  if (tokens.size() <= kLeastNgram || n_most == 0) return;
  const std::size_t last = tokens.size() - 1;
  std::size_t best = 0, best_n = kLeastNgram - 1;
  for (std::size_t i = last; i-- > best_n;) {
    if (tokens[i] != tokens[last]) continue;
    std::size_t n = 1;
    while (n < kMostNgram && n <= i && tokens[i - n] == tokens[last - n]) ++n;
    if (n <= best_n) continue;
    best = i;
    best_n = n;
    if (n == kMostNgram) break;
  }
  if (best_n < kLeastNgram) return;
  const auto behind = tokens.subspan(best + 1);
  out.assign(behind.begin(),
             behind.begin() + static_cast<std::ptrdiff_t>(std::min(behind.size(), n_most)));
}

}  // namespace llamaherd

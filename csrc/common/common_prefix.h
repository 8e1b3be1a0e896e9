#pragma once

#include <algorithm>
#include <cstring>
#include <span>

#include "common/types.h"

namespace llamaherd {

/// Length of the longest common prefix.
inline Pos common_length(std::span<const TokenId> a, std::span<const TokenId> b) {
  // memcmp compares blocks much faster than a loop with an early exit.
  constexpr std::size_t kPiece = 64;
  const std::size_t n = std::min(a.size(), b.size());
  std::size_t i = 0;
  while (i + kPiece <= n &&
         std::memcmp(a.data() + i, b.data() + i, kPiece * sizeof(TokenId)) == 0) {
    i += kPiece;
  }
  const TokenId* end = a.data() + n;
  return static_cast<Pos>(std::mismatch(a.data() + i, end, b.data() + i).first - a.data());
}

}  // namespace llamaherd

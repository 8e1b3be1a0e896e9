#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/cache_lines.h"
#include "kernels/common/kernel_table.h"

namespace llamaherd::kernels {
namespace {

/// Working memory of a tile's attention.
struct AttentionScratch {
  float* q;          // [n_heads][n_queries][k_size], scaled
  float* result;     // [n_heads][n_queries][2 + v_size]: maximum, sum, values of earlier blocks
  float* part;       // [n_queries][2 + v_size]: likewise, of one block
  float* scores;     // [n_queries][kBlockCells]
  std::uint16_t* k;  // [kBlockCells / 16][k_size][16]
  std::uint16_t* rows_k;  // [kBlockCells][k_size]: other types converted to F16
  std::uint16_t* rows_v;
  std::byte* end;
};

inline AttentionScratch lay_out(std::byte* begin, int n_heads, int n_queries, int k_size,
                                int v_size) {
  const auto take = [&](std::size_t bytes) {
    std::byte* at = begin;
    begin += whole_lines(bytes);
    return at;
  };
  const auto n = static_cast<std::size_t>(n_queries), n_all = n * n_heads;
  AttentionScratch s;
  s.q = reinterpret_cast<float*>(take(4 * n_all * k_size));
  s.result = reinterpret_cast<float*>(take(4 * n_all * (2 + v_size)));
  s.part = reinterpret_cast<float*>(take(4 * n * (2 + v_size)));
  s.scores = reinterpret_cast<float*>(take(4 * n * kBlockCells));
  s.k = reinterpret_cast<std::uint16_t*>(take(sizeof(std::uint16_t) * kBlockCells * k_size));
  s.rows_k = reinterpret_cast<std::uint16_t*>(take(sizeof(std::uint16_t) * kBlockCells * k_size));
  s.rows_v = reinterpret_cast<std::uint16_t*>(take(sizeof(std::uint16_t) * kBlockCells * v_size));
  s.end = begin;
  return s;
}

}  // namespace
}  // namespace llamaherd::kernels

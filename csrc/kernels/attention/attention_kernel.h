#pragma once

#include <immintrin.h>

#include "kernels/attention/attention_scratch.h"
#include "kernels/common/kernel_table.h"

namespace llamaherd::kernels {
namespace {

constexpr float kLowest = -__builtin_inff();

/// exp(x) for x <= 0: exactly 0 for -inf, NaN for NaN. Range reduction by ln 2 in two parts (Cody
/// and Waite), then a polynomial; error at most 2 ulp.
template <class S>
typename S::F exp_of(typename S::F x) {
  using F = typename S::F;
  const F n = S::round(S::mul(x, S::set1(1.44269504f)));
  F r = S::fma(n, S::set1(-0.693359375f), x);
  r = S::fma(n, S::set1(2.12194440e-4f), r);
  constexpr float kTaylor[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  F p = S::set1(1.0f / 720);
  for (const float c : kTaylor) p = S::fma(p, r, S::set1(c));
  return S::zero_below(S::scale_by_power(p, n), x, -87.0f);
}

template <class S>
float exp_of_one(float x) {
  float lanes[16];
  S::store(lanes, exp_of<S>(S::set1(x)));
  return lanes[0];
}

/// cap * tanh(x / cap), by exp(-2|x / cap|).
template <class S>
typename S::F cap_of(typename S::F x, float cap) {
  using F = typename S::F;
  const F scaled = S::mul(x, S::set1(1 / cap));
  const F negative = S::sub(S::zero(), scaled);
  const F size = S::max(scaled, negative);
  const F e = exp_of<S>(S::mul(size, S::set1(-2.0f)));
  const F tanh = S::div(S::sub(S::set1(1), e), S::add(S::set1(1), e));
  // size / scaled is the sign; 0 stays 0.
  return S::mul(S::set1(cap), S::copy_sign(tanh, scaled));
}

template <class S>
std::int64_t visible_cells(const std::uint16_t* mask, std::int64_t n, std::uint32_t* cells,
                           bool* biased) {
  std::int64_t n_visible = 0;
  for (std::int64_t i = 0; i < n; i += 16) {
    const unsigned valid = n - i >= 16 ? 0xffff : (1u << (n - i)) - 1;
    n_visible +=
        S::visible(mask + i, static_cast<std::uint32_t>(i), valid, cells + n_visible, biased);
  }
  return n_visible;
}

/// Scores of kN queries against 16 * kVectors cells: sums over the head's dimensions, in order.
template <class S, int kN, int kVectors>
[[gnu::noinline]] void score(const std::uint16_t* k, int k_size, const float* const* q,
                             float* const* scores) {
  using F = typename S::F;
  F acc[kN][kVectors];
  for (int i = 0; i < kN; ++i) {
    for (int c = 0; c < kVectors; ++c) acc[i][c] = S::zero();
  }
  for (int d = 0; d < k_size; ++d) {
    F cells[kVectors];
    for (int c = 0; c < kVectors; ++c) cells[c] = S::load_f16(k + (c * k_size + d) * 16);
    for (int i = 0; i < kN; ++i) {
      const F value = S::set1(q[i][d]);
      for (int c = 0; c < kVectors; ++c) acc[i][c] = S::fma(cells[c], value, acc[i][c]);
    }
  }
  for (int i = 0; i < kN; ++i) {
    for (int c = 0; c < kVectors; ++c) S::store(scores[i] + 16 * c, acc[i][c]);
  }
}

/// Weighted sums of the values of n cells, for kN queries and 16 * kVectors dimensions.
template <class S, int kN, int kVectors>
[[gnu::noinline]] void weigh(const std::byte* const* v, int n, std::int64_t offset,
                             const float* const* weights, float* const* out) {
  using F = typename S::F;
  F acc[kN][kVectors];
  for (int i = 0; i < kN; ++i) {
    for (int j = 0; j < kVectors; ++j) acc[i][j] = S::zero();
  }
  for (int c = 0; c < n; ++c) {
    F values[kVectors];
    for (int j = 0; j < kVectors; ++j) values[j] = S::load_f16(v[c] + offset + 32 * j);
    for (int i = 0; i < kN; ++i) {
      const F weight = S::set1(weights[i][c]);
      for (int j = 0; j < kVectors; ++j) acc[i][j] = S::fma(values[j], weight, acc[i][j]);
    }
  }
  for (int i = 0; i < kN; ++i) {
    for (int j = 0; j < kVectors; ++j) S::store(out[i] + 16 * j, acc[i][j]);
  }
}

/// Calls f.template operator()<kN>(first) for n items, kMost at a time.
template <int kMost, class F>
void in_steps(int n, const F& f, int first = 0) {
  for (; first + kMost <= n; first += kMost) f.template operator()<kMost>(first);
  if constexpr (kMost > 1) {
    if (first < n) in_steps<kMost - 1>(n, f, first);
  }
}

template <class S, int kN>
void weigh_all(const std::byte* const* v, int n, int v_size, const float* const* weights,
               float* const* out) {
  in_steps<S::kVectors>(v_size / 16, [&]<int kVectors>(int j) {
    float* to[kN];
    for (int i = 0; i < kN; ++i) to[i] = out[i] + 16 * j;
    weigh<S, kN, kVectors>(v, n, 32 * j, weights, to);
  });
}

/// Converts scores to weights; returns their maximum and sum. Scores from `count` on are ignored.
template <class S>
void softmax_block(float* scores, int count, float softcap, float* maximum, float* sum) {
  using F = typename S::F;
  F s[4];
  F most = S::set1(kLowest);
  for (int c = 0; c < 4; ++c) {
    s[c] = S::load(scores + 16 * c);
    if (softcap != 0) s[c] = cap_of<S>(s[c], softcap);
    s[c] = S::first(s[c], S::set1(kLowest), count - 16 * c);
    most = S::max(most, s[c]);
  }
  *maximum = S::max(most);
  const F shift = S::set1(*maximum);
  F total = S::zero();
  for (int c = 0; c < 4; ++c) {
    s[c] = exp_of<S>(S::sub(s[c], shift));
    S::store(scores + 16 * c, s[c]);
    total = S::add(total, s[c]);
  }
  *sum = S::sum(total);
}

/// Merges a block's result into that of earlier blocks (log-sum-exp). Both are maximum, sum,
/// values.
template <class S>
void merge(const float* part, int v_size, float* result) {
  const float most = result[0] > part[0] ? result[0] : part[0];
  const float before = exp_of_one<S>(result[0] - most), after = exp_of_one<S>(part[0] - most);
  result[0] = most;
  result[1] = __builtin_fmaf(result[1], before, part[1] * after);
  for (int d = 0; d < v_size; d += 16) {
    const auto scaled = S::mul(S::load(part + 2 + d), S::set1(after));
    S::store(result + 2 + d, S::fma(S::load(result + 2 + d), S::set1(before), scaled));
  }
}

void start(float* result, int v_size) {
  result[0] = kLowest;
  for (int d = 0; d <= v_size; ++d) result[1 + d] = 0;
}

/// Divides by the sum. A sink adds to the sum like a cell without a value.
template <class S>
void finish(const float* result, int v_size, const float* sink, float* out) {
  float scale = 1, sum = result[1];
  if (sink) {
    const float most = result[0] > *sink ? result[0] : *sink;
    scale = exp_of_one<S>(result[0] - most);
    sum = __builtin_fmaf(sum, scale, exp_of_one<S>(*sink - most));
  }
  const float inverse = sum == 0 ? 0 : scale / sum;
  for (int d = 0; d < v_size; d += 16) {
    S::store(out + d, S::mul(S::load(result + 2 + d), S::set1(inverse)));
  }
}

bool all_finite(const std::byte* const* v, int begin, int end, int v_size) {
  bool finite = true;
  for (int c = begin; c < end; ++c) {
    const auto* values = reinterpret_cast<const std::uint16_t*>(v[c]);
    for (int d = 0; d < v_size; ++d) finite &= (values[d] & 0x7c00) != 0x7c00;
  }
  return finite;
}

template <class T>
T* offset_ptr(T* p, std::int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(p) + bytes);
}

template <class S>
class TileAttention {
 public:
  explicit TileAttention(const AttentionTile& tile)
      : t_(tile),
        n_queries_(tile.n_rows * tile.n_group),
        stride_(2 + tile.v_size),
        s_(lay_out(tile.scratch, tile.n_heads, n_queries_, tile.k_size, tile.v_size)) {}

  void run() {
    for (int i = 0; i < t_.n_heads * n_queries_; ++i) {
      for (int d = 0; d < t_.k_size; d += 16) {
        const auto scaled = S::mul(S::load(q_of(i) + d), S::set1(t_.scale));
        S::store(s_.q + i * t_.k_size + d, scaled);
      }
      start(s_.result + i * stride_, t_.v_size);
    }
    // Heads of a cell are adjacent in memory: they are processed together.
    for (std::int64_t i = 0; i < t_.n_blocks; ++i) {
      const bool is_last = i + 1 == t_.n_blocks;
      const SharedBlock* next = is_last ? nullptr : t_.blocks + t_.order[i + 1];
      for (int head = 0; head < t_.n_heads; ++head) take(head, t_.blocks[t_.order[i]], next);
    }
    if (t_.partials) return;
    for (int i = 0; i < t_.n_heads * n_queries_; ++i) {
      const float* sink = t_.sinks ? t_.sinks + query_head(i) : nullptr;
      finish<S>(s_.result + i * stride_, t_.v_size, sink, out_of(i));
    }
  }

 private:
  /// Queries are numbered by K/V head, row, and query head of the group.
  int query_head(int i) const { return i / n_queries_ * t_.n_group + i % t_.n_group; }
  int row(int i) const { return i % n_queries_ / t_.n_group; }
  const float* q_of(int i) const {
    return offset_ptr(t_.q, row(i) * t_.q_stride + query_head(i) * t_.q_head_stride);
  }
  float* out_of(int i) const {
    return offset_ptr(t_.out, row(i) * t_.out_stride + query_head(i) * t_.out_head_stride);
  }

  void take(int head, const SharedBlock& block, const SharedBlock* next) {
    head_ = head;
    const std::byte* k = t_.k + head * t_.k_head_stride;
    const std::byte* v = t_.v + head * t_.v_head_stride;
    for (int c = 0; c < kBlockCells; ++c) {
      const std::int64_t cell = block.cells[c < block.n_cells ? c : 0];
      k_[c] = k + cell * t_.k_stride;
      v_[c] = v + cell * t_.v_stride;
    }
    prefetch(block, v, t_.v_stride, bytes_of(t_.v_size, t_.v_is_q8));
    if (t_.k_is_q8) widen(k_, t_.k_size, s_.rows_k);
    const int n_vectors = (block.n_cells + 15) / 16;
    for (int c = 0; c < n_vectors; ++c) {
      for (int d = 0; d < t_.k_size; d += 8) {
        S::transpose(k_ + 16 * c, 2 * d, s_.k + (c * t_.k_size + d) * 16);
      }
    }
    if (next) prefetch(*next, k, t_.k_stride, bytes_of(t_.k_size, t_.k_is_q8));
    const int n = block.n_rows * t_.n_group;
    in_steps<S::kQueries>(n, [&]<int kN>(int first) { score_some<kN>(block, first, n_vectors); });
    for (int i = 0; i < n; ++i) {
      float* scores = s_.scores + i * kBlockCells;
      if (t_.mask) add_bias(block, i, scores);
      float* part = s_.part + i * stride_;
      softmax_block<S>(scores, block.count[i / t_.n_group], t_.mask ? 0 : t_.softcap, part,
                       part + 1);
    }
    if (t_.v_is_q8) widen(v_, t_.v_size, s_.rows_v);
    weigh_block(block);
    for (int i = 0; i < n; ++i) keep(block, i);
  }

  int query(const SharedBlock& block, int i) const {
    return head_ * n_queries_ + block.row[i / t_.n_group] * t_.n_group + i % t_.n_group;
  }

  /// Prefetches cells, whose addresses are too far apart for the hardware prefetcher.
  static void prefetch(const SharedBlock& block, const std::byte* base, std::int64_t stride,
                       int n_bytes) {
    for (int c = 0; c < block.n_cells; ++c) {
      const auto* cell = reinterpret_cast<const char*>(base + block.cells[c] * stride);
      for (int line = 0; line < n_bytes; line += 64) _mm_prefetch(cell + line, _MM_HINT_T1);
    }
  }

  static int bytes_of(int size, bool is_q8) { return is_q8 ? size / 32 * 34 : 2 * size; }

  /// Converts values to F16 and points `cells` to them.
  static void widen(const std::byte** cells, int size, std::uint16_t* rows) {
    for (int c = 0; c < kBlockCells; ++c) {
      std::uint16_t* row = rows + c * size;
      for (int d = 0; d < size; d += 32) S::q8_to_f16(cells[c] + d / 32 * 34, row + d);
      cells[c] = reinterpret_cast<const std::byte*>(row);
    }
  }

  template <int kN>
  void score_some(const SharedBlock& block, int first, int n_vectors) {
    const float* q[kN];
    float* scores[kN];
    for (int i = 0; i < kN; ++i) {
      q[i] = s_.q + query(block, first + i) * t_.k_size;
      scores[i] = s_.scores + (first + i) * kBlockCells;
    }
    in_steps<S::kVectors>(n_vectors, [&]<int kVectors>(int c) {
      float* to[kN];
      for (int i = 0; i < kN; ++i) to[i] = scores[i] + 16 * c;
      score<S, kN, kVectors>(s_.k + c * t_.k_size * 16, t_.k_size, q, to);
    });
  }

  /// Multiplies all values of a block by all rows' weights; the weight of a cell that a row does
  /// not see is 0. Values that are not finite need a separate path, as 0 times them is NaN.
  void weigh_block(const SharedBlock& block) {
    int least = block.n_cells;
    for (int r = 0; r < block.n_rows; ++r) {
      least = block.count[r] < least ? block.count[r] : least;
    }
    const bool apart = !all_finite(v_, least, block.n_cells, t_.v_size);
    const auto some = [&]<int kN>(int first, int n_cells) {
      const float* weights[kN];
      float* out[kN];
      for (int i = 0; i < kN; ++i) {
        weights[i] = s_.scores + (first + i) * kBlockCells;
        out[i] = s_.part + (first + i) * stride_ + 2;
      }
      weigh_all<S, kN>(v_, n_cells, t_.v_size, weights, out);
    };
    const int n = block.n_rows * t_.n_group;
    if (apart) {
      for (int i = 0; i < n; ++i) {
        some.template operator()<1>(i, block.count[i / t_.n_group]);
      }
      return;
    }
    in_steps<S::kQueries>(
        n, [&]<int kN>(int first) { some.template operator()<kN>(first, block.n_cells); });
  }

  void add_bias(const SharedBlock& block, int i, float* scores) {
    const std::uint16_t* mask = offset_ptr(t_.mask, block.row[i / t_.n_group] * t_.mask_stride);
    const float slope = t_.slope[query_head(query(block, i))];
    const int count = block.count[i / t_.n_group];
    for (int c = 0; t_.softcap != 0 && c < kBlockCells; c += 16) {
      S::store(scores + c, cap_of<S>(S::load(scores + c), t_.softcap));
    }
    for (int c = 0; c < count; ++c) {
      const float bias = _cvtsh_ss(mask[block.cells[c]]);
      scores[c] = __builtin_fmaf(slope, bias, scores[c]);
    }
  }

  void keep(const SharedBlock& block, int i) {
    const float* part = s_.part + i * stride_;
    const int m = query(block, i);
    if (!t_.partials) return merge<S>(part, t_.v_size, s_.result + m * stride_);
    float* to = t_.partials + (std::int64_t{block.index} * n_queries_ + m) * stride_;
    for (int d = 0; d < stride_; ++d) to[d] = part[d];
  }

  const AttentionTile& t_;
  const int n_queries_;  // per K/V head
  const int stride_;
  const AttentionScratch s_;
  int head_ = 0;
  const std::byte* k_[kBlockCells];
  const std::byte* v_[kBlockCells];
};

template <class S>
void attend(const AttentionTile& tile) {
  TileAttention<S>(tile).run();
}

template <class S>
void merge_blocks(const BlockResults& r) {
  float result[2 + kMaxHeadSize];
  start(result, r.v_size);
  for (std::int64_t b = 0; b < r.n_blocks; ++b) {
    merge<S>(r.partials + b * r.stride, r.v_size, result);
  }
  finish<S>(result, r.v_size, r.sink, r.out);
}

}  // namespace
}  // namespace llamaherd::kernels

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "graph.h"
#include "kernels/attention/attention_op.h"

namespace llamaherd::kernels {

struct Heads {
  std::int64_t n_heads = 9, n_kv_heads = 3, k_size = 64, v_size = 64;
};

/// An attention problem: K and V lie as in llama.cpp's cache, cell after cell, heads side by side.
struct Problem {
  Heads heads;
  std::int64_t n_rows, n_cells;
  float scale, max_bias = 0, softcap = 0;
  ggml_type kv_type = GGML_TYPE_F16;
  std::vector<float> q;     // [n_rows][n_heads][k_size]
  std::vector<float> k, v;  // [n_cells][n_kv_heads][size]; what F16 holds
  std::vector<float> mask;  // [n_rows][n_cells]
  std::vector<float> sinks;

  Problem(Heads h, std::int64_t rows, std::int64_t cells, std::mt19937& random)
      : heads(h),
        n_rows(rows),
        n_cells(cells),
        scale(1 / std::sqrt(static_cast<float>(h.k_size))),
        q(normal(rows * h.n_heads * h.k_size, random, 2)),
        k(normal(cells * h.n_kv_heads * h.k_size, random)),
        v(normal(cells * h.n_kv_heads * h.v_size, random)),
        mask(rows * cells, 0.0f) {
    for (auto* values : {&k, &v}) {
      for (float& x : *values) x = ggml_fp16_to_fp32(ggml_fp32_to_fp16(x));
    }
  }

  void show_only(std::int64_t row, const std::function<bool(std::int64_t)>& sees) {
    for (std::int64_t c = 0; c < n_cells; ++c) {
      if (!sees(c)) mask[row * n_cells + c] = -INFINITY;
    }
  }
};

inline std::vector<ggml_fp16_t> halves(const std::vector<float>& values) {
  std::vector<ggml_fp16_t> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = ggml_fp32_to_fp16(values[i]);
  return out;
}

/// [n_rows][n_heads][v_size]
inline std::vector<float> attend(const Problem& p, Cpu& cpu) {
  const ContextPtr context = make_context();
  ggml_context* c = context.get();
  const Heads& h = p.heads;
  ggml_tensor* q = ggml_new_tensor_3d(c, GGML_TYPE_F32, h.k_size, h.n_heads, p.n_rows);
  ggml_tensor* k = ggml_new_tensor_3d(c, p.kv_type, h.k_size, h.n_kv_heads, p.n_cells);
  ggml_tensor* v = ggml_new_tensor_3d(c, p.kv_type, h.v_size, h.n_kv_heads, p.n_cells);
  ggml_tensor* mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, p.n_cells, p.n_rows);
  ggml_tensor* sinks = ggml_new_tensor_1d(c, GGML_TYPE_F32, h.n_heads);
  ggml_tensor* out =
      ggml_flash_attn_ext(c, ggml_permute(c, q, 0, 2, 1, 3), ggml_permute(c, k, 0, 2, 1, 3),
                          ggml_permute(c, v, 0, 2, 1, 3), mask, p.scale, p.max_bias, p.softcap);
  if (!p.sinks.empty()) ggml_flash_attn_ext_add_sinks(out, sinks);
  ggml_cgraph* graph = ggml_new_graph(c);
  ggml_build_forward_expand(graph, out);
  const BufferPtr buffer = allocate(context, ggml_backend_cpu_buffer_type());
  const auto set = [](ggml_tensor* t, const auto& values) {
    ggml_backend_tensor_set(t, values.data(), 0, values.size() * sizeof(values[0]));
  };
  set(q, p.q);
  set(k, quantized(p.kv_type, p.k, h.k_size));
  set(v, quantized(p.kv_type, p.v, h.v_size));
  set(mask, halves(p.mask));
  if (!p.sinks.empty()) set(sinks, p.sinks);
  EXPECT_EQ(cpu.compute(graph), GGML_STATUS_SUCCESS);
  std::vector<float> result(p.n_rows * h.n_heads * h.v_size);
  ggml_backend_tensor_get(out, result.data(), 0, result.size() * sizeof(float));
  return result;
}

inline float slope_of(const Problem& p, std::int64_t head) {
  ggml_tensor q{}, dst{};
  q.ne[2] = p.heads.n_heads;
  dst.src[0] = &q;
  AttentionOp op(dst);
  op.max_bias = p.max_bias;
  return op.slope(head);
}

inline std::vector<double> true_attention(const Problem& p) {
  const Heads& h = p.heads;
  std::vector<double> out(p.n_rows * h.n_heads * h.v_size, 0.0);
  for (std::int64_t row = 0; row < p.n_rows; ++row) {
    for (std::int64_t head = 0; head < h.n_heads; ++head) {
      const std::int64_t kv = head / (h.n_heads / h.n_kv_heads);
      std::vector<double> scores(p.n_cells, -INFINITY);
      double most = p.sinks.empty() ? -INFINITY : p.sinks[head];
      for (std::int64_t c = 0; c < p.n_cells; ++c) {
        const float bias = p.mask[row * p.n_cells + c];
        if (bias == -INFINITY) continue;
        double s = 0;
        for (std::int64_t d = 0; d < h.k_size; ++d) {
          s += double{p.q[(row * h.n_heads + head) * h.k_size + d]} *
               p.k[(c * h.n_kv_heads + kv) * h.k_size + d];
        }
        s *= p.scale;
        if (p.softcap != 0) s = p.softcap * std::tanh(s / p.softcap);
        scores[c] = s + double{slope_of(p, head)} * bias;
        most = std::max(most, scores[c]);
      }
      double sum = p.sinks.empty() ? 0 : std::exp(p.sinks[head] - most);
      for (double& s : scores) sum += s = std::exp(s - most);
      double* to = out.data() + (row * h.n_heads + head) * h.v_size;
      for (std::int64_t c = 0; sum > 0 && c < p.n_cells; ++c) {
        if (p.mask[row * p.n_cells + c] == -INFINITY) continue;
        for (std::int64_t d = 0; d < h.v_size; ++d) {
          to[d] += scores[c] / sum * p.v[(c * h.n_kv_heads + kv) * h.v_size + d];
        }
      }
    }
  }
  return out;
}

inline void expect_close(const Problem& p, const std::vector<float>& out) {
  const std::vector<double> expected = true_attention(p);
  for (std::size_t i = 0; i < out.size(); ++i) {
    ASSERT_NEAR(out[i], expected[i], 2e-5) << "at " << i << " of " << out.size();
  }
}

/// Rows of `n_seqs` sequences that share `n_shared` cells and have others of their own,
/// interleaved, with holes that nobody sees.
inline Problem shared_prefix(Heads heads, int n_seqs, int n_rows_each, std::int64_t n_shared,
                             std::int64_t n_cells, std::mt19937& random) {
  Problem p(heads, n_seqs * n_rows_each, n_cells, random);
  for (std::int64_t row = 0; row < p.n_rows; ++row) {
    const std::int64_t seq = row % n_seqs;
    const std::int64_t n_hidden = n_rows_each - 1 - row / n_seqs;  // later rows of the sequence
    p.show_only(row, [&](std::int64_t c) {
      if (c < n_shared) return true;
      const std::int64_t turn = (c - n_shared) % (n_seqs + 1),
                         round = (c - n_shared) / (n_seqs + 1);
      const std::int64_t n_rounds = (n_cells - n_shared) / (n_seqs + 1);
      return turn == seq && round < n_rounds - n_hidden;
    });
  }
  return p;
}

inline Problem causal(Heads heads, std::int64_t n_before, std::int64_t n_rows,
                      std::mt19937& random) {
  Problem p(heads, n_rows, n_before + n_rows, random);
  for (std::int64_t row = 0; row < n_rows; ++row) {
    p.show_only(row, [&](std::int64_t c) { return c <= n_before + row; });
  }
  return p;
}

/// The row alone, its cells at other places, as long as their order is the same.
inline Problem alone(const Problem& p, std::int64_t row, std::int64_t gap, std::mt19937& random) {
  std::vector<std::int64_t> cells;
  for (std::int64_t c = 0; c < p.n_cells; ++c) {
    if (p.mask[row * p.n_cells + c] != -INFINITY) cells.push_back(c);
  }
  const auto n_cells = static_cast<std::int64_t>(cells.size()) * gap + 3;
  Problem one(p.heads, 1, n_cells, random);
  one.show_only(0, [&](std::int64_t c) {
    return c % gap == gap - 1 && c / gap < static_cast<std::int64_t>(cells.size());
  });
  const auto copy = [&](const std::vector<float>& from, std::vector<float>& to, std::int64_t size) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      std::copy_n(from.begin() + cells[i] * size, size, to.begin() + (i * gap + gap - 1) * size);
    }
  };
  copy(p.k, one.k, p.heads.n_kv_heads * p.heads.k_size);
  copy(p.v, one.v, p.heads.n_kv_heads * p.heads.v_size);
  const std::int64_t q_size = p.heads.n_heads * p.heads.k_size;
  std::copy_n(p.q.begin() + row * q_size, q_size, one.q.begin());
  return one;
}

}  // namespace llamaherd::kernels

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "graph.h"
#include "guarded_buffer.h"
#include "kernels/attention_op.h"
#include "kernels/attention_scratch.h"
#include "kernels/kernel_table.h"
#include "kernels/visible_blocks.h"

namespace llamaherd::kernels {
namespace {

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

std::vector<ggml_fp16_t> halves(const std::vector<float>& values) {
  std::vector<ggml_fp16_t> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = ggml_fp32_to_fp16(values[i]);
  return out;
}

/// [n_rows][n_heads][v_size]
std::vector<float> attend(const Problem& p, Cpu& cpu) {
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

float slope_of(const Problem& p, std::int64_t head) {
  ggml_tensor q{}, dst{};
  q.ne[2] = p.heads.n_heads;
  dst.src[0] = &q;
  AttentionOp op(dst);
  op.max_bias = p.max_bias;
  return op.slope(head);
}

std::vector<double> true_attention(const Problem& p) {
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

void expect_close(const Problem& p, const std::vector<float>& out) {
  const std::vector<double> expected = true_attention(p);
  for (std::size_t i = 0; i < out.size(); ++i) {
    ASSERT_NEAR(out[i], expected[i], 2e-5) << "at " << i << " of " << out.size();
  }
}

/// Rows of `n_seqs` sequences that share `n_shared` cells and have others of their own,
/// interleaved, with holes that nobody sees.
Problem shared_prefix(Heads heads, int n_seqs, int n_rows_each, std::int64_t n_shared,
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

Problem causal(Heads heads, std::int64_t n_before, std::int64_t n_rows, std::mt19937& random) {
  Problem p(heads, n_rows, n_before + n_rows, random);
  for (std::int64_t row = 0; row < n_rows; ++row) {
    p.show_only(row, [&](std::int64_t c) { return c <= n_before + row; });
  }
  return p;
}

class AttentionOfHeads : public testing::TestWithParam<Heads> {};
INSTANTIATE_TEST_SUITE_P(Heads, AttentionOfHeads,
                         testing::Values(Heads{}, Heads{4, 4, 64, 64}, Heads{8, 1, 128, 128},
                                         Heads{6, 2, 80, 80}, Heads{4, 2, 96, 96},
                                         Heads{4, 1, 256, 256}, Heads{14, 2, 64, 64},
                                         Heads{2, 1, 192, 128}, Heads{4, 2, 32, 32}));

TEST_P(AttentionOfHeads, IsCloseToTheTruth) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(1);
  for (const int n_threads : {1, 2, 3}) {
    Cpu cpu(Mode::kFast, n_threads);
    for (const Problem& p :
         {causal(GetParam(), 0, 1, random), causal(GetParam(), 300, 1, random),
          causal(GetParam(), 70, 37, random), shared_prefix(GetParam(), 5, 1, 130, 400, random),
          shared_prefix(GetParam(), 3, 4, 0, 333, random)}) {
      expect_close(p, attend(p, cpu));
    }
  }
}

TEST(Attention, SupportsAlibiSoftcapAndSinks) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(2);
  Cpu cpu(Mode::kFast, 2);
  for (const bool alibi : {false, true}) {
    for (const float softcap : {0.0f, 3.0f}) {
      for (const bool sinks : {false, true}) {
        Problem p = shared_prefix({6, 2, 64, 64}, 4, 2, 100, 300, random);
        p.softcap = softcap;
        p.max_bias = alibi ? 8 : 0;
        if (sinks) p.sinks = normal(6, random, 2);
        for (std::int64_t i = 0; alibi && i < p.n_rows * p.n_cells; ++i) {
          if (p.mask[i] == 0) p.mask[i] = -static_cast<float>(p.n_cells - i % p.n_cells);
        }
        expect_close(p, attend(p, cpu));
      }
    }
  }
}

TEST(Attention, ReadsKAndVOfEightBits) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(9);
  Cpu one(Mode::kFast, 1), three(Mode::kFast, 3);
  for (const Heads& heads : {Heads{}, Heads{4, 2, 128, 96}}) {
    Problem p = shared_prefix(heads, 4, 3, 100, 300, random);
    p.kv_type = GGML_TYPE_Q8_0;
    p.k = dequantized(p.kv_type, quantized(p.kv_type, p.k, heads.k_size), heads.k_size);
    p.v = dequantized(p.kv_type, quantized(p.kv_type, p.v, heads.v_size), heads.v_size);
    const std::vector<float> out = attend(p, one);
    ASSERT_EQ(out, attend(p, three));
    const std::vector<double> expected = true_attention(p);
    // K and V are rounded to F16's 11 bits on the way.
    for (std::size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 5e-3) << i;
  }
}

/// The row alone, its cells at other places, as long as their order is the same.
Problem alone(const Problem& p, std::int64_t row, std::int64_t gap, std::mt19937& random) {
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

TEST_P(AttentionOfHeads, ARowDependsOnItsOwnCellsAndTheirOrderAlone) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(3);
  Cpu one(Mode::kFast, 1), four(Mode::kFast, 4);
  for (const Problem& p :
       {causal(GetParam(), 200, 40, random), shared_prefix(GetParam(), 7, 3, 150, 500, random)}) {
    const std::vector<float> together = attend(p, one);
    ASSERT_EQ(together, attend(p, four));
    const std::int64_t size = p.heads.n_heads * p.heads.v_size;
    for (std::int64_t row = 0; row < p.n_rows; row += 3) {
      for (const std::int64_t gap : {1, 2}) {
        const std::vector<float> single = attend(alone(p, row, gap, random), gap == 1 ? one : four);
        ASSERT_EQ(std::memcmp(single.data(), together.data() + row * size, size * sizeof(float)), 0)
            << "row " << row << ", gap " << gap;
      }
    }
  }
}

TEST(Attention, ARowThatSeesNothingIsZero) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(4);
  for (const int n_threads : {1, 4}) {
    Problem p = causal({}, 50, 3, random);
    p.show_only(1, [](std::int64_t) { return false; });
    Cpu cpu(Mode::kFast, n_threads);
    expect_close(p, attend(p, cpu));
  }
}

TEST(Attention, CellsThatAreNotFiniteSpoilOnlyThoseWhoSeeThem) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(5);
  const Heads heads;
  Cpu cpu(Mode::kFast, 2);
  for (const bool in_k : {false, true}) {
    for (const float bad : {NAN, INFINITY}) {
      // Rows of one sequence share its last block, of which the earlier see less.
      Problem p = causal(heads, 40, 20, random);
      const std::int64_t cell = 50;
      auto& values = in_k ? p.k : p.v;
      const std::int64_t size = heads.n_kv_heads * 64;
      std::fill_n(values.begin() + cell * size, size, bad);
      const std::vector<float> out = attend(p, cpu);
      Problem clean = p;
      std::fill_n((in_k ? clean.k : clean.v).begin() + cell * size, size, 0.0f);
      const std::vector<float> expected = attend(clean, cpu);
      const std::int64_t row_size = heads.n_heads * 64;
      for (std::int64_t i = 0; i < p.n_rows * row_size; ++i) {
        if (i / row_size < 10) {
          ASSERT_EQ(out[i], expected[i]) << "row " << i / row_size;
        } else if (!in_k || std::isnan(bad)) {
          ASSERT_FALSE(std::isfinite(out[i])) << "row " << i / row_size;
        }
      }
    }
  }
}

TEST(Attention, WhatItDoesNotCoverIsLeftToGgml) {
  std::mt19937 random(6);
  Cpu fast(Mode::kFast, 2), stock(Mode::kStock, 2);
  const Problem p = causal({2, 2, 40, 40}, 10, 5, random);  // heads of 40: no multiple of 16
  EXPECT_EQ(attend(p, fast), attend(p, stock));
}

TEST(Attention, GraphsComputedAgainSeeTheirNewMask) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(7);
  const Heads h{2, 1, 64, 64};
  Problem p(h, 4, 200, random);
  const ContextPtr context = make_context();
  ggml_context* c = context.get();
  ggml_tensor* q = ggml_new_tensor_3d(c, GGML_TYPE_F32, 64, 4, 2);
  ggml_tensor* k = ggml_new_tensor_3d(c, GGML_TYPE_F16, 64, 200, 1);
  ggml_tensor* v = ggml_new_tensor_3d(c, GGML_TYPE_F16, 64, 200, 1);
  ggml_tensor* mask = ggml_new_tensor_2d(c, GGML_TYPE_F16, 200, 4);
  ggml_tensor* first = ggml_flash_attn_ext(c, q, k, v, mask, p.scale, 0, 0);
  ggml_tensor* second = ggml_flash_attn_ext(c, q, k, v, mask, p.scale, 0, 0);
  ggml_cgraph* graph = ggml_new_graph(c);
  ggml_build_forward_expand(graph, first);
  ggml_build_forward_expand(graph, second);
  const BufferPtr buffer = allocate(context, ggml_backend_cpu_buffer_type());
  ggml_backend_tensor_set(k, halves(p.k).data(), 0, p.k.size() * 2);
  ggml_backend_tensor_set(v, halves(p.v).data(), 0, p.v.size() * 2);
  std::vector<float> by_head(p.q.size());
  for (int row = 0; row < 4; ++row) {
    for (int head = 0; head < 2; ++head) {
      std::copy_n(p.q.begin() + (row * 2 + head) * 64, 64, by_head.begin() + (head * 4 + row) * 64);
    }
  }
  ggml_backend_tensor_set(q, by_head.data(), 0, by_head.size() * sizeof(float));
  Cpu cpu(Mode::kFast, 2);
  for (int round = 0; round < 4; ++round) {
    std::fill(p.mask.begin(), p.mask.end(), 0.0f);
    for (int row = 0; row < 4; ++row) {
      p.show_only(row, [&](std::int64_t) { return random() % 3 != 0; });
    }
    ggml_backend_tensor_set(mask, halves(p.mask).data(), 0, p.mask.size() * 2);
    ASSERT_EQ(cpu.compute(graph), GGML_STATUS_SUCCESS);
    for (const ggml_tensor* out : {first, second}) {
      std::vector<float> result(4 * 2 * 64);
      ggml_backend_tensor_get(out, result.data(), 0, result.size() * sizeof(float));
      expect_close(p, result);
    }
  }
}

TEST(Attention, ReadsAndWritesNothingOutsideItsBuffers) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(8);
  constexpr int kRows = 3, kCells = 77, kSize = 80;
  const Problem p = causal({2, 1, kSize, kSize}, kCells - kRows, kRows, random);
  GuardedBuffer q(p.q.size() * 4), k(p.k.size() * 2), v(p.v.size() * 2), mask(p.mask.size() * 2);
  GuardedBuffer out(kRows * 2 * kSize * 4);
  const auto put = [](GuardedBuffer& to, const auto& from) {
    std::memcpy(to.data(), from.data(), from.size() * sizeof(from[0]));
  };
  put(q, p.q), put(k, halves(p.k)), put(v, halves(p.v)), put(mask, halves(p.mask));
  ggml_tensor shown{};
  shown.data = mask.data();
  shown.nb[1] = kCells * 2;
  const VisibleBlocks sizes(nullptr, kRows, kCells, kRows);
  GuardedBuffer memory(sizes.bytes());
  const VisibleBlocks blocks(memory.data(), kRows, kCells, kRows);
  blocks.build(0, shown, *best_kernels());
  const std::byte* none = nullptr;
  GuardedBuffer scratch(lay_out(nullptr, kRows * 2, kSize, kSize).end - none);
  std::vector<const float*> q_of;
  std::vector<float*> out_of;
  for (int i = 0; i < kRows * 2; ++i) {
    q_of.push_back(reinterpret_cast<const float*>(q.data()) + i * kSize);
    out_of.push_back(reinterpret_cast<float*>(out.data()) + i * kSize);
  }
  const VisibleBlocks::Tile& tile = blocks.tile(0);
  best_kernels()->attend({.blocks = tile.blocks,
                          .order = tile.order,
                          .n_blocks = tile.n_blocks,
                          .n_rows = kRows,
                          .n_group = 2,
                          .k_size = kSize,
                          .v_size = kSize,
                          .k_is_q8 = false,
                          .v_is_q8 = false,
                          .k = k.data(),
                          .v = v.data(),
                          .k_stride = kSize * 2,
                          .v_stride = kSize * 2,
                          .q = q_of.data(),
                          .out = out_of.data(),
                          .scale = p.scale,
                          .softcap = 0,
                          .mask = nullptr,
                          .slope = nullptr,
                          .sinks = nullptr,
                          .scratch = scratch.data(),
                          .partials = nullptr});
  const auto* results = reinterpret_cast<const float*>(out.data());
  expect_close(p, {results, results + kRows * 2 * kSize});
}

}  // namespace
}  // namespace llamaherd::kernels

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "attention_problem.h"
#include "guarded_buffer.h"
#include "kernels/attention/attention_scratch.h"
#include "kernels/attention/visible_blocks.h"
#include "kernels/common/kernel_table.h"

namespace llamaherd::kernels {
namespace {

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
  const Problem p = causal({4, 2, kSize, kSize}, kCells - kRows, kRows, random);
  GuardedBuffer q(p.q.size() * 4), k(p.k.size() * 2), v(p.v.size() * 2), mask(p.mask.size() * 2);
  GuardedBuffer out(kRows * 4 * kSize * 4);
  const auto put = [](GuardedBuffer& to, const auto& from) {
    std::memcpy(to.data(), from.data(), from.size() * sizeof(from[0]));
  };
  put(q, p.q), put(k, halves(p.k)), put(v, halves(p.v)), put(mask, halves(p.mask));
  ggml_tensor shown{};
  shown.data = mask.data();
  shown.nb[1] = kCells * 2;
  const VisibleBlocks sizes(nullptr, kRows, kCells, kRows, nullptr);
  GuardedBuffer memory(sizes.bytes());
  const VisibleBlocks blocks(memory.data(), kRows, kCells, kRows, nullptr);
  blocks.build(0, shown, *best_kernels());
  const std::byte* none = nullptr;
  GuardedBuffer scratch(lay_out(nullptr, 2, kRows * 2, kSize, kSize).end - none);
  const VisibleBlocks::Tile& tile = blocks.tile(0);
  best_kernels()->attend({.blocks = tile.blocks,
                          .order = tile.order,
                          .n_blocks = tile.n_blocks,
                          .n_rows = kRows,
                          .n_heads = 2,
                          .n_group = 2,
                          .k_size = kSize,
                          .v_size = kSize,
                          .k_is_q8 = false,
                          .v_is_q8 = false,
                          .k = k.data(),
                          .v = v.data(),
                          .k_stride = 2 * kSize * 2,
                          .v_stride = 2 * kSize * 2,
                          .k_head_stride = kSize * 2,
                          .v_head_stride = kSize * 2,
                          .q = reinterpret_cast<const float*>(q.data()),
                          .out = reinterpret_cast<float*>(out.data()),
                          .q_stride = 4 * kSize * 4,
                          .q_head_stride = kSize * 4,
                          .out_stride = 4 * kSize * 4,
                          .out_head_stride = kSize * 4,
                          .scale = p.scale,
                          .softcap = 0,
                          .mask = nullptr,
                          .mask_stride = 0,
                          .slope = nullptr,
                          .sinks = nullptr,
                          .scratch = scratch.data(),
                          .partials = nullptr});
  const auto* results = reinterpret_cast<const float*>(out.data());
  expect_close(p, {results, results + kRows * 4 * kSize});
}

}  // namespace
}  // namespace llamaherd::kernels

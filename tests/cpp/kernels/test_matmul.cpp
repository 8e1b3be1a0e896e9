#include <gtest/gtest.h>

#include <cmath>

#include "graph.h"
#include "guarded_buffer.h"
#include "kernels/common/kernel_table.h"
#include "kernels/matmul/bf16_split.h"
#include "kernels/matmul/panels.h"

namespace llamaherd::kernels {
namespace {

const ggml_type kTypes[] = {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1,
                            GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K,
                            GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16};

bool is_float(ggml_type type) { return !ggml_is_quantized(type); }

/// Whether activations are multiplied as two BF16 halves.
bool is_split(ggml_type type) {
  return best_kernels()->split && is_float(type) && type != GGML_TYPE_F32;
}

struct Matrix {
  ggml_type type;
  std::int64_t n_in, n_out;
  std::vector<std::byte> rows;
  std::vector<float> values;  // as `rows` say

  Matrix(ggml_type t, std::int64_t in, std::int64_t out, const std::vector<float>& from)
      : type(t),
        n_in(in),
        n_out(out),
        rows(quantized(t, from, in)),
        values(dequantized(t, rows, in)) {}
};

Matrix random_matrix(ggml_type type, std::int64_t n_in, std::int64_t n_out, std::mt19937& random) {
  return {type, n_in, n_out, normal(n_in * n_out, random, 0.1f)};
}

/// MUL_MAT as a graph of one node, with the weights in panels or, for stock kernels, as they are.
std::vector<float> multiply(const Matrix& w, const std::vector<float>& x, Cpu& cpu, bool panels) {
  const auto n_rows = static_cast<std::int64_t>(x.size()) / w.n_in;
  const ContextPtr weights = make_context(), rest = make_context();
  ggml_tensor* a = ggml_new_tensor_2d(weights.get(), w.type, w.n_in, w.n_out);
  const BufferPtr weight_buffer =
      allocate(weights, panels ? panel_buffer_type() : ggml_backend_cpu_buffer_type());
  ggml_tensor* b = ggml_new_tensor_2d(rest.get(), GGML_TYPE_F32, w.n_in, n_rows);
  ggml_tensor* product = ggml_mul_mat(rest.get(), a, b);
  ggml_cgraph* graph = ggml_new_graph(rest.get());
  ggml_build_forward_expand(graph, product);
  const BufferPtr buffer = allocate(rest, ggml_backend_cpu_buffer_type());
  ggml_backend_tensor_set(a, w.rows.data(), 0, w.rows.size());
  ggml_backend_tensor_set(b, x.data(), 0, x.size() * sizeof(float));
  EXPECT_EQ(cpu.compute(graph), GGML_STATUS_SUCCESS);
  std::vector<float> out(w.n_out * n_rows);
  ggml_backend_tensor_get(product, out.data(), 0, out.size() * sizeof(float));
  return out;
}

/// The largest error that 8-bit activations, or split ones, and float sums allow one product.
void expect_close(const Matrix& w, const std::vector<float>& x, const std::vector<float>& out,
                  bool exact_activations = false) {
  const double relative = is_split(w.type) && !exact_activations ? 0x1p-15 : 2e-6;
  const std::size_t n_rows = x.size() / w.n_in;
  for (std::size_t r = 0; r < n_rows; ++r) {
    const float* row = x.data() + r * w.n_in;
    for (std::int64_t o = 0; o < w.n_out; ++o) {
      const float* weights = w.values.data() + o * w.n_in;
      double sum = 0, size = 0, rounding = 0;
      for (std::int64_t i = 0; i < w.n_in; i += 32) {
        double largest = 0, weight = 0;
        for (std::int64_t j = i; j < std::min(i + 32, w.n_in); ++j) {
          sum += double{weights[j]} * row[j];
          size += std::abs(double{weights[j]} * row[j]);
          largest = std::max(largest, std::abs(double{row[j]}));
          weight += std::abs(double{weights[j]});
        }
        rounding += weight * largest / 253;
      }
      const double bound =
          size * relative + (is_float(w.type) || exact_activations ? 0 : rounding) + 1e-30;
      ASSERT_NEAR(out[r * w.n_out + o], sum, bound)
          << ggml_type_name(w.type) << ": row " << r << " of " << n_rows << ", output " << o;
    }
  }
}

class MatmulOfType : public testing::TestWithParam<ggml_type> {};
INSTANTIATE_TEST_SUITE_P(Types, MatmulOfType, testing::ValuesIn(kTypes),
                         [](const auto& info) { return std::string(ggml_type_name(info.param)); });

TEST_P(MatmulOfType, IsCloseToTheTrueProductForEveryNumberOfRowsAndThreads) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(1);
  const Matrix w = random_matrix(GetParam(), 512, 100, random);
  for (const int n_threads : {1, 2, 3}) {
    Cpu cpu(Mode::kFast, n_threads);
    for (int n_rows = 1; n_rows <= 33; ++n_rows) {
      const std::vector<float> x = normal(512 * n_rows, random);
      expect_close(w, x, multiply(w, x, cpu, true));
    }
    const std::vector<float> x = normal(512 * 300, random);
    expect_close(w, x, multiply(w, x, cpu, true));
  }
}

TEST_P(MatmulOfType, ARowDoesNotDependOnTheRowsBesideIt) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(2);
  constexpr std::int64_t kIn = 1280, kRows = 64;
  const Matrix w = random_matrix(GetParam(), kIn, 150, random);
  const std::vector<float> x = normal(kIn * kRows, random);
  Cpu one(Mode::kFast, 1), three(Mode::kFast, 3);
  std::vector<float> alone;
  for (int r = 0; r < kRows; ++r) {
    const std::vector<float> row(x.begin() + kIn * r, x.begin() + kIn * (r + 1));
    const std::vector<float> out = multiply(w, row, one, true);
    alone.insert(alone.end(), out.begin(), out.end());
  }
  for (int n_rows = 1; n_rows <= kRows; n_rows += n_rows < 34 ? 1 : 3) {
    const std::vector<float> rows(x.begin(), x.begin() + kIn * n_rows);
    const std::vector<float> out = multiply(w, rows, n_rows % 2 ? one : three, true);
    ASSERT_EQ(std::memcmp(out.data(), alone.data(), out.size() * sizeof(float)), 0) << n_rows;
  }
}

TEST_P(MatmulOfType, ActivationsThatEightBitsHoldAreMultipliedExactly) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(3);
  const Matrix w = random_matrix(GetParam(), 1024, 33, random);
  Cpu cpu(Mode::kFast, 2);
  for (const std::size_t n_rows : {5, 53}) {
    std::vector<float> x(1024 * n_rows);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = i % 32 == 0 ? 127.0f : static_cast<float>(static_cast<int>(random() % 255) - 127);
    }
    expect_close(w, x, multiply(w, x, cpu, true), true);
  }
}

TEST_P(MatmulOfType, SumsOfTheLargestValuesFit) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  constexpr std::int64_t kIn = 512, kOut = 20, kRows = 2;
  Cpu cpu(Mode::kFast, 2);
  std::vector<float> x(kIn * kRows, 127.0f);
  std::fill(x.begin() + kIn, x.end(), -127.0f);
  // Of 4, 5, 6 and 8 bits: the one value that sets the scale leaves the others the largest or the
  // smallest q there is.
  for (const float range : {8.0f, 16.0f, 32.0f, 128.0f}) {
    for (const float sign : {1.0f, -1.0f}) {
      std::vector<float> values(kIn * kOut, sign * (range - 1));
      for (std::size_t i = 0; i < values.size(); i += 16) values[i] = -sign * range;
      const Matrix w(GetParam(), kIn, kOut, values);
      expect_close(w, x, multiply(w, x, cpu, true), true);
    }
  }
}

TEST_P(MatmulOfType, HoldsForHostileValues) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(4);
  const ggml_type type = GetParam();
  std::vector<std::vector<float>> weights(4, std::vector<float>(512 * 20, 0.0f));
  weights[1] = normal(512 * 20, random, 1000);                          // huge scales
  weights[2][17] = 60000;                                               // one outlier
  for (float& value : weights[3]) value = random() % 2 ? 1.0f : -1.0f;  // all extremes
  Cpu cpu(Mode::kFast, 2);
  for (const std::int64_t n_rows : {3, 48}) {
    std::vector<std::vector<float>> inputs(5, std::vector<float>(512 * n_rows, 0.0f));
    inputs[1] = normal(512 * n_rows, random, 1e6f);
    inputs[2] = normal(512 * n_rows, random, 1e-3f);
    inputs[2][700] = 1e4f;
    inputs[3] = normal(512 * n_rows, random, 1e-42f);  // denormals
    for (float& value : inputs[4]) value = random() % 2 ? 1.0f : -1.0f;
    for (const auto& values : weights) {
      const Matrix w(type, 512, 20, values);
      for (const auto& x : inputs) expect_close(w, x, multiply(w, x, cpu, true));
    }
  }
}

TEST_P(MatmulOfType, WhatIsNotFiniteSpoilsItsOwnRowOnly) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(5);
  const Matrix w = random_matrix(GetParam(), 256, 16, random);
  Cpu cpu(Mode::kFast, 2);
  for (const std::int64_t n_rows : {9, 57}) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      std::vector<float> x = normal(256 * n_rows, random);
      x[256 * 4 + 100] = bad;
      const std::vector<float> out = multiply(w, x, cpu, true);
      for (std::size_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(std::isfinite(out[i]), i / 16 != 4) << bad << " at " << i << " of " << n_rows;
      }
    }
  }
}

TEST_P(MatmulOfType, ReadsAndWritesNothingOutsideItsBuffers) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(6);
  constexpr std::int64_t kIn = 256, kOut = 21, kRows = 57;
  const Matrix w = random_matrix(GetParam(), kIn, kOut, random);
  const ContextPtr context = make_context();
  const ggml_tensor& tensor = *ggml_new_tensor_2d(context.get(), w.type, kIn, kOut);
  GuardedBuffer rows(w.rows.size()), panels(panels_bytes(tensor));
  std::memcpy(rows.data(), w.rows.data(), w.rows.size());
  pack_panels(tensor, rows.data(), panels.data(), 2);
  const std::vector<float> x = normal(kIn * kRows, random);
  GuardedBuffer floats(x.size() * sizeof(float)), out(kOut * kRows * sizeof(float));
  std::memcpy(floats.data(), x.data(), x.size() * sizeof(float));
  const auto* first = reinterpret_cast<const float*>(floats.data());
  auto* to = reinterpret_cast<float*>(out.data());
  GuardedBuffer blocks(kIn / 32 * kRows * sizeof(ActivationBlock));
  auto* quantized_rows = reinterpret_cast<ActivationBlock*>(blocks.data());
  const auto scratch_bytes = best_kernels()->scratch_bytes;
  GuardedBuffer halves(kRows * split_row_bytes(kIn));
  GuardedBuffer scratch(scratch_bytes ? scratch_bytes(w.type) : 0);
  std::vector<const void*> x_of;
  std::vector<float*> out_of;
  for (int r = 0; r < kRows; ++r) {
    best_kernels()->quantize(first + r * kIn, kIn, quantized_rows + r * kIn / 32);
    if (is_split(w.type)) {
      std::byte* to = halves.data() + r * split_row_bytes(kIn);
      best_kernels()->split(first + r * kIn, kIn, to);
      x_of.push_back(to);
    } else if (is_float(w.type)) {
      x_of.push_back(first + r * kIn);
    } else {
      x_of.push_back(quantized_rows + r * kIn / 32);
    }
    out_of.push_back(to + r * kOut);
  }
  for (const std::int64_t n_rows : {1, 8, 11, 19, 50, 57}) {
    best_kernels()->multiply({w.type, panels.data(), 2, kIn, 0, kOut, x_of.data(), out_of.data(),
                              n_rows, scratch.data()});
    expect_close(w, {x.begin(), x.begin() + kIn * n_rows}, {to, to + kOut * n_rows});
  }
}

TEST(Matmul, FloatWeightsNeedNoWholeBlocksOfInputs) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(9);
  Cpu cpu(Mode::kFast, 2);
  for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16}) {
    for (const std::int64_t n_in : {1, 31, 33, 50, 799}) {
      const Matrix w = random_matrix(type, n_in, 40, random);
      for (const std::int64_t n_rows : {1, 5, 70}) {
        const std::vector<float> x = normal(n_in * n_rows, random);
        expect_close(w, x, multiply(w, x, cpu, true));
      }
    }
  }
}

TEST(Matmul, SplitActivationsKeepSixteenBits) {
  if (!best_kernels() || !best_kernels()->split) GTEST_SKIP() << "these kernels split no rows";
  std::mt19937 random(10);
  const Matrix w(GGML_TYPE_BF16, 32, 16, std::vector<float>(32 * 16, 1.0f));
  Cpu cpu(Mode::kFast, 1);
  for (const float value : {1.0039f, -3.14159f, 1e-30f, 1e30f, -3.3961e38f}) {
    std::vector<float> x(32, 0.0f);
    x[random() % 32] = value;
    for (const float out : multiply(w, x, cpu, true)) {
      ASSERT_NEAR(out, value, std::abs(value) * 0x1p-16f) << value;
    }
  }
  std::vector<float> x(32, 1.0f);
  x[7] = -INFINITY;
  for (const float out : multiply(w, x, cpu, true)) ASSERT_EQ(out, -INFINITY);
}

#if defined(__x86_64__)
TEST(Matmul, LeavesTheThreadsTilesConfiguredAsTheyWere) {
  if (!best_kernels() || !best_kernels()->scratch_bytes)
    GTEST_SKIP() << "these kernels use no tiles";
  struct alignas(64) Config {
    std::uint8_t bytes[64];
  };
  Config before{}, after{};
  before.bytes[0] = 1;            // palette
  before.bytes[16 + 2 * 3] = 32;  // bytes of a row of tile 3
  before.bytes[48 + 3] = 5;       // rows
  std::mt19937 random(11);
  Cpu cpu(Mode::kFast, 1);
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q4_0}) {
    const Matrix w = random_matrix(type, 64, 16, random);
    const std::vector<float> x = normal(64 * 64, random);
    asm volatile("ldtilecfg %0" ::"m"(before));
    multiply(w, x, cpu, true);
    asm volatile("sttilecfg %0" : "=m"(after));
    asm volatile("tilerelease");
    EXPECT_EQ(std::memcmp(&before, &after, sizeof before), 0) << ggml_type_name(type);
  }
}
#endif

TEST(Matmul, ExpertsComputeTheRowsThatChoseThem) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(7);
  constexpr std::int64_t kIn = 256, kOut = 40, kExperts = 5, kUsed = 2, kTokens = 23;
  for (const ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_Q6_K, GGML_TYPE_F16}) {
    const Matrix w = random_matrix(type, kIn, kOut * kExperts, random);
    for (const std::int64_t n_inputs : {std::int64_t{1}, kUsed}) {
      const ContextPtr weights = make_context(), rest = make_context();
      ggml_tensor* a = ggml_new_tensor_3d(weights.get(), type, kIn, kOut, kExperts);
      const BufferPtr weight_buffer = allocate(weights, panel_buffer_type());
      ggml_tensor* b = ggml_new_tensor_3d(rest.get(), GGML_TYPE_F32, kIn, n_inputs, kTokens);
      ggml_tensor* ids = ggml_new_tensor_2d(rest.get(), GGML_TYPE_I32, kUsed, kTokens);
      ggml_tensor* product = ggml_mul_mat_id(rest.get(), a, b, ids);
      ggml_cgraph* graph = ggml_new_graph(rest.get());
      ggml_build_forward_expand(graph, product);
      const BufferPtr buffer = allocate(rest, ggml_backend_cpu_buffer_type());
      const std::vector<float> x = normal(kIn * n_inputs * kTokens, random);
      std::vector<std::int32_t> chosen(kUsed * kTokens);
      for (auto& expert : chosen) expert = static_cast<std::int32_t>(random() % kExperts);
      ggml_backend_tensor_set(a, w.rows.data(), 0, w.rows.size());
      ggml_backend_tensor_set(b, x.data(), 0, x.size() * sizeof(float));
      ggml_backend_tensor_set(ids, chosen.data(), 0, chosen.size() * sizeof(std::int32_t));
      Cpu cpu(Mode::kFast, 2);
      ASSERT_EQ(cpu.compute(graph), GGML_STATUS_SUCCESS);
      std::vector<float> out(kOut * kUsed * kTokens);
      ggml_backend_tensor_get(product, out.data(), 0, out.size() * sizeof(float));
      for (std::int64_t i = 0; i < kUsed * kTokens; ++i) {
        const std::size_t bytes = w.rows.size() / kExperts;
        Matrix expert = w;
        expert.n_out = kOut;
        expert.rows.assign(w.rows.begin() + chosen[i] * bytes,
                           w.rows.begin() + (chosen[i] + 1) * bytes);
        expert.values = dequantized(type, expert.rows, kIn);
        const auto from = x.begin() + kIn * (i / kUsed * n_inputs + i % kUsed % n_inputs);
        expect_close(expert, {from, from + kIn},
                     {out.begin() + i * kOut, out.begin() + (i + 1) * kOut});
      }
    }
  }
}

TEST(Matmul, NodesThatShareTheirInputAndTheNextGraphsSeeTheirOwn) {
  if (!best_kernels()) GTEST_SKIP() << "no fast kernels on this CPU";
  std::mt19937 random(8);
  constexpr std::int64_t kIn = 256, kOut = 16;
  const Matrix w = random_matrix(GGML_TYPE_Q8_0, kIn, kOut, random);
  for (const std::int64_t n_rows : {2, 100}) {  // every thread for itself; together
    const ContextPtr weights = make_context(), rest = make_context();
    ggml_tensor* a = ggml_new_tensor_2d(weights.get(), w.type, kIn, kOut);
    const BufferPtr weight_buffer = allocate(weights, panel_buffer_type());
    ggml_tensor* b = ggml_new_tensor_2d(rest.get(), GGML_TYPE_F32, kIn, n_rows);
    ggml_tensor* first = ggml_mul_mat(rest.get(), a, b);
    ggml_tensor* second = ggml_mul_mat(rest.get(), a, b);
    ggml_cgraph* graph = ggml_new_graph(rest.get());
    ggml_build_forward_expand(graph, first);
    ggml_build_forward_expand(graph, second);
    const BufferPtr buffer = allocate(rest, ggml_backend_cpu_buffer_type());
    ggml_backend_tensor_set(a, w.rows.data(), 0, w.rows.size());
    Cpu cpu(Mode::kFast, 2);
    for (int round = 0; round < 3; ++round) {
      const std::vector<float> x = normal(kIn * n_rows, random);
      ggml_backend_tensor_set(b, x.data(), 0, x.size() * sizeof(float));
      ASSERT_EQ(cpu.compute(graph), GGML_STATUS_SUCCESS);
      for (const ggml_tensor* product : {first, second}) {
        std::vector<float> out(kOut * n_rows);
        ggml_backend_tensor_get(product, out.data(), 0, out.size() * sizeof(float));
        expect_close(w, x, out);
      }
    }
  }
}

}  // namespace
}  // namespace llamaherd::kernels

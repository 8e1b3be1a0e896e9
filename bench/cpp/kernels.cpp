// Speed of the CPU kernels alone, on one thread: GMAC/s and GB/s of weights read, by type, shape
// and rows. "memory/read" is the memory bandwidth, "peak/..." the multiplication rate from
// registers. LLAMAHERD_CPU_ISA selects the kernels.

#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "ggml.h"
#include "kernels/common/kernel_table.h"
#include "kernels/matmul/bf16_split.h"
#include "kernels/matmul/panels.h"

namespace {

using namespace llamaherd::kernels;
using benchmark::Counter;

struct Shape {
  std::int64_t n_in, n_out;
};

/// Weights of random bits: values do not affect the speed if scales are finite.
std::vector<std::byte> random_panels(const ggml_tensor& weights) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(weights.ne[0] * weights.ne[1]);
  for (float& value : values) value = normal(random);
  std::vector<std::byte> rows(weights.ne[1] * ggml_row_size(weights.type, weights.ne[0]));
  ggml_quantize_chunk(weights.type, values.data(), rows.data(), 0, weights.ne[1], weights.ne[0],
                      nullptr);
  std::vector<std::byte> panels(panels_bytes(weights));
  pack_panels(weights, rows.data(), panels.data(), 1);
  return panels;
}

struct alignas(64) Line {
  std::byte bytes[64];
};

void multiply(benchmark::State& state, const KernelTable* kernels, ggml_type type, Shape shape) {
  const std::int64_t n_rows = state.range(0);
  ggml_tensor weights{};
  weights.type = type;
  weights.ne[0] = shape.n_in;
  weights.ne[1] = shape.n_out;
  weights.ne[2] = weights.ne[3] = 1;
  const std::vector<std::byte> panels = random_panels(weights);
  std::vector<float> x(n_rows * shape.n_in, 0.5f), out(n_rows * (shape.n_out + 16));
  const bool quantized = ggml_is_quantized(type);
  const bool split = kernels->split && (type == GGML_TYPE_F16 || type == GGML_TYPE_BF16);
  const std::int64_t row_bytes = quantized ? shape.n_in / 32 * sizeof(ActivationBlock)
                                 : split   ? split_row_bytes(shape.n_in)
                                           : shape.n_in * sizeof(float);
  std::vector<std::byte> prepared(n_rows * row_bytes);
  std::vector<const void*> x_of;
  std::vector<float*> out_of;
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const float* row = x.data() + r * shape.n_in;
    std::byte* to = prepared.data() + r * row_bytes;
    if (quantized) kernels->quantize(row, shape.n_in, reinterpret_cast<ActivationBlock*>(to));
    if (split) kernels->split(row, shape.n_in, to);
    x_of.push_back(quantized || split ? static_cast<const void*>(to) : row);
    out_of.push_back(out.data() + r * shape.n_out);
  }
  std::vector<Line> scratch(
      kernels->scratch_bytes ? (kernels->scratch_bytes(type) + 63) / sizeof(Line) : 0);
  const MatmulTask product{type,
                           panels.data(),
                           (shape.n_out + 15) / 16,
                           shape.n_in,
                           0,
                           shape.n_out,
                           x_of.data(),
                           out_of.data(),
                           n_rows,
                           reinterpret_cast<std::byte*>(scratch.data())};
  for (auto _ : state) {
    kernels->multiply(product);
    benchmark::ClobberMemory();
  }
  const auto macs = static_cast<double>(n_rows * shape.n_in * shape.n_out);
  state.counters["GMAC/s"] = Counter(1e-9 * macs, Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] =
      Counter(1e-9 * static_cast<double>(panels.size()), Counter::kIsIterationInvariantRate);
}

void read_memory(benchmark::State& state) {
  const std::vector<std::uint64_t> words(std::size_t{32} << 20, 1);
  for (auto _ : state) {
    std::uint64_t sums[8] = {};
    for (std::size_t i = 0; i < words.size(); i += 8) {
      for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.counters["GB/s"] =
      Counter(8e-9 * static_cast<double>(words.size()), Counter::kIsIterationInvariantRate);
}

#if defined(__x86_64__)
/// Products of bytes as in the AVX-512 VNNI kernels, in enough chains to hide the latency.
void multiply_registers(benchmark::State& state) {
  constexpr int kChains = 12, kTurns = 256;
  for (auto _ : state) {
    for (int turn = 0; turn < kTurns; ++turn) {
      asm volatile(
          ".irp to,1,2,3,4,5,6,7,8,9,10,11,12\n\t"
          "vpdpbusd %%zmm0, %%zmm0, %%zmm\\to\n\t"
          ".endr" ::
              : "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                "xmm11", "xmm12");
    }
  }
  state.counters["GMAC/s"] =
      Counter(1e-9 * 64 * kChains * kTurns, Counter::kIsIterationInvariantRate);
}
#endif

void add_multiply(const KernelTable* kernels) {
  if (!kernels) return;
  for (const ggml_type type :
       {GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_Q8_0,
        GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_F16, GGML_TYPE_BF16}) {
    for (const Shape shape : {Shape{576, 1536}, Shape{1536, 576}, Shape{4096, 4096}}) {
      if (shape.n_in % 256 != 0 && ggml_blck_size(type) == 256) continue;
      const std::string title = std::string(kernels->name) + "/" + ggml_type_name(type) + "/" +
                                std::to_string(shape.n_in) + "x" + std::to_string(shape.n_out);
      benchmark::RegisterBenchmark(
          title.c_str(), [=](benchmark::State& state) { multiply(state, kernels, type, shape); })
          ->RangeMultiplier(2)
          ->Range(1, 64)
          ->Arg(512);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::RegisterBenchmark("memory/read", read_memory);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) {
    benchmark::RegisterBenchmark("peak/avx512_vnni", multiply_registers);
  }
#endif
  add_multiply(best_kernels());
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}

// Time of building a call's batch rows.

#include <benchmark/benchmark.h>

#include "planned_call.h"

namespace {

using namespace llamaherd;

void build(benchmark::State& state) {
  PlannedCall call(static_cast<std::int32_t>(state.range(0)), static_cast<Pos>(state.range(1)));
  for (auto _ : state) benchmark::DoNotOptimize(call.build());
}

BENCHMARK(build)
    ->ArgNames({"decoding", "prompt"})
    ->Args({1, 0})
    ->Args({16, 0})
    ->Args({64, 0})
    ->Args({16, 512})
    ->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

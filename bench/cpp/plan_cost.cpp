// Time of planning a step, by length of the queue. No model: plans are committed as if every call
// had succeeded.

#include <benchmark/benchmark.h>

#include <chrono>

#include "planned_herd.h"

namespace {

using namespace llamaherd;

void plan(benchmark::State& state) {
  PlannedHerd herd(static_cast<std::int32_t>(state.range(0)));
  for (int i = 0; i < 200; ++i) herd.carry_out(herd.plan());
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    const StepPlan& plan = herd.plan();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    state.SetIterationTime(spent.count());
    herd.carry_out(plan);
  }
}

BENCHMARK(plan)
    ->ArgName("queued")
    ->Arg(16)
    ->Arg(100)
    ->Arg(1000)
    ->Arg(10000)
    ->Arg(100000)
    ->Unit(benchmark::kMicrosecond)
    ->UseManualTime();

}  // namespace

BENCHMARK_MAIN();

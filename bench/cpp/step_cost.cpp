// Time of a whole step without the model: planning, building, sampling from 64 logits per row,
// publishing and delivery, for 16 decoding sequences. The backend does nothing.

#include <benchmark/benchmark.h>

#include <optional>

#include "steady_herd.h"
#include "still_backend.h"

namespace {

using namespace llamaherd;
using Herd = SteadyHerd<StillBackend>;

void time_steps(benchmark::State& state, SteadyOptions options) {
  options.params.prompt_lookup = false;  // all drafts would be accepted
  std::optional<Herd> herd;
  for (auto _ : state) {
    if (!herd || herd->any_ended()) {
      state.PauseTiming();
      herd.emplace(options).run_to(Herd::kPrompt + 1);
      state.ResumeTiming();
    }
    herd->step();
  }
}

void greedy(benchmark::State& state) {
  SteadyOptions options;
  options.params.temperature = 0;
  time_steps(state, options);
}

void sampled(benchmark::State& state) {
  SteadyOptions options;
  options.params.top_k = 40;
  options.params.top_p = 0.95f;
  time_steps(state, options);
}

void with_stops(benchmark::State& state) {
  SteadyOptions options;
  options.params.temperature = 0;
  options.params.stop = {"\n\nUser:", "<|end|>"};
  time_steps(state, options);
}

BENCHMARK(greedy)->Unit(benchmark::kMicrosecond);
BENCHMARK(sampled)->Unit(benchmark::kMicrosecond);
BENCHMARK(with_stops)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

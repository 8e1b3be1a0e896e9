// Time of one request in the prefix cache, without model and scheduler; KV operations are
// discarded.
//
// A cache has `leaves` paths, each sharing a quarter with every fourth path. A request shares
// `match` tokens with one of them and has 30 more of its own. Its first use splits an edge, as most
// first uses do. To keep the number of leaves, the cache is rebuilt, untimed, after a tenth as many
// requests.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "cached_leaves.h"

namespace {

using namespace llamaherd;

/// Times requests that share their first n_shared tokens with a leaf.
void time_requests(benchmark::State& state, CachedLeaves& leaves, Pos n_shared,
                   std::int32_t n_free) {
  std::int64_t n_left = 0;
  for (auto _ : state) {
    if (n_left-- == 0) {
      leaves.build(n_free);
      n_left = leaves.n_requests() - 1;
    }
    const std::vector<TokenId> prompt = leaves.prompt(n_shared);
    const auto begin = std::chrono::steady_clock::now();
    leaves.request(prompt);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    state.SetIterationTime(spent.count());
  }
}

void match_alone(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  CachedLeaves leaves(static_cast<int>(state.range(0)), n_match);
  leaves.build(0);
  std::vector<std::vector<TokenId>> prompts(std::min<std::int64_t>(state.range(0), 200));
  for (auto& prompt : prompts) prompt = leaves.prompt(n_match);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(leaves.match(prompts[i]));
    i = (i + 1) % prompts.size();
  }
}

void request(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  CachedLeaves leaves(static_cast<int>(state.range(0)), n_match);
  time_requests(state, leaves, n_match, leaves.n_new());
}

// The cache is full: cells are evicted from another leaf.
void request_when_full(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  CachedLeaves leaves(static_cast<int>(state.range(0)), n_match);
  time_requests(state, leaves, n_match, 0);
}

// Shares only the quarter with which many leaves begin.
void request_of_prefix(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  CachedLeaves leaves(static_cast<int>(state.range(0)), n_match);
  time_requests(state, leaves, n_match / 4, leaves.n_new());
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"leaves", "match"})->Unit(benchmark::kMicrosecond);
  for (const int n_leaves : {1, 10, 50, 100, 200, 1000}) b->Args({n_leaves, 3970});
  for (const int n_match : {250, 500, 1000, 2000, 4000}) b->Args({200, n_match});
}

BENCHMARK(match_alone)->Apply(sizes);
BENCHMARK(request)->Apply(sizes)->UseManualTime();
BENCHMARK(request_when_full)->Apply(sizes)->UseManualTime();
BENCHMARK(request_of_prefix)->Apply(sizes)->UseManualTime();

}  // namespace

BENCHMARK_MAIN();

// Time of radix tree operations alone; match_cost includes the prefix cache's bookkeeping.

#include <benchmark/benchmark.h>

#include "tree_paths.h"

namespace {

using namespace llamaherd;

TreePaths paths_of(const benchmark::State& state) {
  return {static_cast<std::size_t>(state.range(0)), static_cast<Pos>(state.range(1))};
}

void count(benchmark::State& state, const TreePaths& paths, Pos n_each) {
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(paths.size()) * n_each);
}

void insert_and_remove(benchmark::State& state) {
  const TreePaths paths = paths_of(state);
  TreePaths::Tree tree;
  for (auto _ : state) {
    paths.insert_all(tree);
    paths.remove_all(tree);
  }
  count(state, paths, 1);
}

void find(benchmark::State& state) {
  const TreePaths paths = paths_of(state);
  TreePaths::Tree tree;
  paths.insert_all(tree);
  for (auto _ : state) benchmark::DoNotOptimize(paths.find_all(tree));
  count(state, paths, 1);
}

void grow(benchmark::State& state) {
  constexpr Pos kNew = 64;
  const TreePaths paths = paths_of(state);
  for (auto _ : state) {
    state.PauseTiming();
    TreePaths::Tree tree;
    paths.insert_all(tree);
    state.ResumeTiming();
    paths.grow_all(tree, kNew);
  }
  count(state, paths, kNew);
}

void sizes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"paths", "tokens"})->Unit(benchmark::kMicrosecond);
  for (const int n_paths : {16, 256}) b->Args({n_paths, 100})->Args({n_paths, 1000});
}

BENCHMARK(insert_and_remove)->Apply(sizes);
BENCHMARK(find)->Apply(sizes);
BENCHMARK(grow)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();

// Time of detokenization: with and without stop strings, for words and for characters that are
// split between tokens.

#include <benchmark/benchmark.h>

#include "pieces.h"

namespace {

using namespace llamaherd;

void put(benchmark::State& state) {
  const Pieces pieces(state.range(0) ? Pieces::Kind::kCharacters : Pieces::Kind::kWords, 1000);
  const Detokenizer stream(state.range(1) ? StopStrings(Pieces::stops()) : StopStrings());
  for (auto _ : state) pieces.put_all(stream);
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(pieces.size()));
}

BENCHMARK(put)
    ->ArgNames({"cut", "stops"})
    ->ArgsProduct({{0, 1}, {0, 1}})
    ->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

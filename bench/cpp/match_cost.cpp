// What one request costs the prefix cache: no model, no scheduler, the KV operations thrown away.
//
// A cache holds `leaves` paths, a quarter of each shared with every fourth other. A request has
// `match` tokens in common with one of them and a tail of its own of 30 tokens. Its first use cuts
// an edge in two, as most first uses do. So that the number of leaves stays what it is said to be,
// the cache is built anew after a tenth as many requests; that is not timed.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "block_store.h"
#include "radix_cache.h"

namespace {

using namespace llamaherd;

constexpr Pos kTail = 30;
constexpr int kPrefixes = 4;

class Workload {
 public:
  Workload(int n_leaves, Pos n_match) : n_match_(n_match), leaves_(n_leaves) {
    std::vector<std::vector<TokenId>> prefixes(kPrefixes);
    for (auto& prefix : prefixes) append_random(prefix, n_match / 4);
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      leaves_[i] = prefixes[i % kPrefixes];
      append_random(leaves_[i], n_match + kTail - n_match / 4);
    }
    order_.resize(leaves_.size());
    for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = i;
    std::ranges::shuffle(order_, random_);
  }

  /// A cache of these leaves with room for `n_free` tokens more.
  void build(std::int32_t n_free) {
    const auto n_leaves = static_cast<std::int32_t>(leaves_.size());
    const std::int32_t n_shared = std::min(n_leaves, kPrefixes) * (n_match_ / 4);
    const std::int32_t n_cells = n_shared + n_leaves * (n_match_ + kTail - n_match_ / 4) + n_free;
    cache_ =
        std::make_unique<RadixCache>(RadixCache::Options{1, n_cells, 1, 2 * n_leaves + 8, 256, {}},
                                     std::make_unique<BlockStore>(0, nullptr));
    for (const auto& leaf : leaves_) request(leaf);
  }

  /// A prompt that has its first n tokens in common with the next leaf, and no more.
  std::vector<TokenId> prompt(Pos n) {
    const std::vector<TokenId>& leaf = leaves_[order_[next_++ % order_.size()]];
    std::vector<TokenId> tokens(leaf.begin(), leaf.begin() + n);
    append_random(tokens, kTail);
    return tokens;
  }

  Pos match(std::span<const TokenId> prompt) const { return cache_->match(0, prompt).n_held; }

  void request(std::span<const TokenId> prompt) {
    const Pos n = match(prompt);
    cache_->attach(0, 0, prompt.first(n), n, ops_);
    cache_->make_room(static_cast<std::int32_t>(prompt.size()) - n, ops_);
    cache_->publish(0, prompt, true, ops_);
    cache_->release(0, prompt, ops_);
    ops_.clear();
  }

  /// As many requests as leave the number of leaves about what it is.
  std::int64_t n_requests() const { return std::max<std::int64_t>(1, leaves_.size() / 10); }
  std::int32_t n_new() const { return static_cast<std::int32_t>(n_requests()) * kTail; }

 private:
  // Never twice the same token behind a branch point: another prompt would match a token more.
  void append_random(std::vector<TokenId>& tokens, Pos n) {
    tokens.push_back(next_id_++);
    for (Pos i = 1; i < n; ++i) tokens.push_back(static_cast<TokenId>(random_() % 32000));
  }

  std::mt19937 random_{1};
  TokenId next_id_ = 32000;
  Pos n_match_;
  std::vector<std::vector<TokenId>> leaves_;
  std::vector<std::size_t> order_;
  std::size_t next_ = 0;
  std::unique_ptr<RadixCache> cache_;
  std::vector<KvOp> ops_;
};

/// Times requests that share their first n_shared tokens with a leaf.
void time_requests(benchmark::State& state, Workload& workload, Pos n_shared, std::int32_t n_free) {
  std::int64_t n_left = 0;
  for (auto _ : state) {
    if (n_left-- == 0) {
      workload.build(n_free);
      n_left = workload.n_requests() - 1;
    }
    const std::vector<TokenId> prompt = workload.prompt(n_shared);
    const auto begin = std::chrono::steady_clock::now();
    workload.request(prompt);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    state.SetIterationTime(spent.count());
  }
}

void match_alone(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  Workload workload(static_cast<int>(state.range(0)), n_match);
  workload.build(0);
  std::vector<std::vector<TokenId>> prompts(std::min<std::int64_t>(state.range(0), 200));
  for (auto& prompt : prompts) prompt = workload.prompt(n_match);
  std::size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(workload.match(prompts[i]));
    i = (i + 1) % prompts.size();
  }
}

void request(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  Workload workload(static_cast<int>(state.range(0)), n_match);
  time_requests(state, workload, n_match, workload.n_new());
}

// The cache is full: the tail's cells are taken from another leaf.
void request_when_full(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  Workload workload(static_cast<int>(state.range(0)), n_match);
  time_requests(state, workload, n_match, 0);
}

// Only the quarter that many leaves begin with is shared.
void request_of_prefix(benchmark::State& state) {
  const auto n_match = static_cast<Pos>(state.range(1));
  Workload workload(static_cast<int>(state.range(0)), n_match);
  time_requests(state, workload, n_match / 4, workload.n_new());
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

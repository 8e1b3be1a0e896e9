// Time of sampling one step's rows: llamaherd's sampler against llama.cpp's sampler chain, called
// once per row.
//
// Logits are random, with a few hundred tokens well above the others as in a trained model.
// Recording the sampled tokens is excluded on both sides.

#include <benchmark/benchmark.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/call_sampler.h"
#include "llama.h"
#include "llama/common/thread_pool.h"

namespace llamaherd {
namespace {

constexpr std::int32_t kVocab = 151936;
constexpr std::int32_t kPenaltyTokens = 64;

std::vector<float> random_row(unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> noise(0, 2);
  std::exponential_distribution<float> height(0.3f);
  std::vector<float> row(kVocab);
  for (float& logit : row) logit = noise(random);
  for (int i = 0; i < 300; ++i) row[random() % kVocab] = 8 + height(random);
  return row;
}

std::vector<TokenId> recent_tokens() {
  std::mt19937 random(1);
  std::vector<TokenId> tokens;
  for (int i = 0; i < kPenaltyTokens; ++i)
    tokens.push_back(static_cast<TokenId>(random() % kVocab));
  return tokens;
}

/// Rows of logits and threads, without a model.
class Rows final : public Backend {
 public:
  Rows(std::int32_t n_rows, std::int32_t n_threads) : pool_(n_threads, 1, kernels::Mode::kStock) {
    info_.n_vocab = kVocab;
    info_.n_threads = n_threads;
    for (std::int32_t i = 0; i < n_rows; ++i) rows_.push_back(random_row(i));
  }
  const BackendInfo& info() const override { return info_; }
  bool remove(SeqId, Pos, Pos) override { return true; }
  void copy(SeqId, SeqId, Pos, Pos) override {}
  std::vector<std::byte> save(SeqId, Pos, Pos) override { return {}; }
  bool load(SeqId, Pos, Pos, std::span<const std::byte>) override { return false; }
  void use_threads(std::int32_t) override {}
  DecodeStatus decode(const BatchView&) override { return DecodeStatus::kOk; }
  std::span<float> logits(std::int32_t row) override { return rows_[row]; }
  void run_in_parallel(std::int32_t n, const ParallelTask& task) override {
    pool_.run(n, info_.n_threads, task);
  }
  Pos length(SeqId) const override { return 0; }
  void clear() override {}
  void abort(bool) override {}

 private:
  BackendInfo info_;
  std::vector<std::vector<float>> rows_;
  ThreadPool pool_;
};

SamplingParams params(bool penalties) {
  SamplingParams p;
  p.temperature = 0.8f;
  p.top_k = 40;
  p.top_p = 0.95f;
  if (penalties) p.repetition_penalty = 1.1f;
  return p;
}

void ours(benchmark::State& state, bool penalties) {
  const auto n_rows = static_cast<std::int32_t>(state.range(0));
  Rows rows(n_rows, static_cast<std::int32_t>(state.range(1)));
  Vocabulary table;
  for (std::int32_t i = 0; i < kVocab; ++i) table.add("x", false);
  const std::vector<TokenId> recent = recent_tokens();
  const Limits limits{kVocab, 4096};
  std::vector<std::unique_ptr<Request>> requests;
  CallPlan call;
  for (std::int32_t i = 0; i < n_rows; ++i) {
    requests.push_back(
        std::make_unique<Request>(i, recent, params(penalties), i, limits, table, 0));
    call.add(requests.back().get(), i, kPenaltyTokens - 1, kPenaltyTokens, true);
  }
  CallSampler sampler(rows.info().n_threads);
  std::vector<SampledOutput> sampled;
  for (auto _ : state) {
    sampler.sample(call, rows, sampled);
    benchmark::DoNotOptimize(sampled.data());
    for (std::int32_t i = 0; penalties && i < n_rows; ++i) {  // undo the penalties
      for (const TokenId token : recent) rows.logits(i)[token] = 1;
    }
  }
  state.counters["rows/s"] =
      benchmark::Counter(n_rows, benchmark::Counter::kIsIterationInvariantRate);
}

struct FreeSampler {
  void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
};
using SamplerPtr = std::unique_ptr<llama_sampler, FreeSampler>;

SamplerPtr chain(bool penalties, unsigned seed) {
  SamplerPtr chain(llama_sampler_chain_init(llama_sampler_chain_default_params()));
  if (penalties) {
    llama_sampler_chain_add(chain.get(),
                            llama_sampler_init_penalties(kVocab, kPenaltyTokens, 1.1f, 0, 0));
  }
  llama_sampler_chain_add(chain.get(), llama_sampler_init_top_k(40));
  llama_sampler_chain_add(chain.get(), llama_sampler_init_top_p(0.95f, 1));
  llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(0.8f));
  llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(seed));
  for (const TokenId token : recent_tokens()) llama_sampler_accept(chain.get(), token);
  return chain;
}

/// The work of llama_sampler_sample() on a row of logits.
void theirs(benchmark::State& state, bool penalties) {
  const auto n_rows = static_cast<std::int32_t>(state.range(0));
  std::vector<std::vector<float>> rows;
  std::vector<SamplerPtr> chains;
  std::vector<std::vector<llama_token_data>> candidates(n_rows);
  for (std::int32_t i = 0; i < n_rows; ++i) {
    rows.push_back(random_row(i));
    chains.push_back(chain(penalties, i));
  }
  for (auto _ : state) {
    for (std::int32_t i = 0; i < n_rows; ++i) {
      candidates[i].resize(kVocab);
      for (TokenId token = 0; token < kVocab; ++token) {
        candidates[i][token] = {token, rows[i][token], 0.0f};
      }
      llama_token_data_array array{candidates[i].data(), candidates[i].size(), -1, false};
      llama_sampler_apply(chains[i].get(), &array);
      benchmark::DoNotOptimize(array.data[array.selected].id);
    }
  }
  state.counters["rows/s"] =
      benchmark::Counter(n_rows, benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(theirs, plain, false)->Args({16})->UseRealTime();
BENCHMARK_CAPTURE(ours, plain, false)->ArgsProduct({{16}, {1, 2}})->UseRealTime();
BENCHMARK_CAPTURE(ours, plain_few, false)->ArgsProduct({{1, 2, 4}, {1, 2}})->UseRealTime();
BENCHMARK_CAPTURE(theirs, penalties, true)->Args({16})->UseRealTime();
BENCHMARK_CAPTURE(ours, penalties, true)->ArgsProduct({{16}, {1, 2}})->UseRealTime();

}  // namespace
}  // namespace llamaherd

BENCHMARK_MAIN();

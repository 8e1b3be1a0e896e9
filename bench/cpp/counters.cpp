// Prints the engine's counters for a fixed schedule on the fake backend, independent of time. 16
// requests with a common prefix of 200 tokens and 16 without arrive in alternating pairs, for 8
// sequences: with cells for all, with so few that requests are preempted, and with a model that
// repeats itself and cheap draft tokens.

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "fake_backend.h"

namespace {

using namespace llamaherd;

constexpr std::int32_t kVocab = 64;
constexpr std::int32_t kRequests = 32;
constexpr Pos kShared = 200;
constexpr Pos kOwn = 30;

using Prompt = std::vector<TokenId>;

void append_random(Prompt& prompt, Pos n, std::mt19937& random) {
  for (Pos i = 0; i < n; ++i) prompt.push_back(1 + static_cast<TokenId>(random() % (kVocab - 3)));
}

std::vector<Prompt> make_prompts() {
  std::mt19937 random(1);
  Prompt shared;
  append_random(shared, kShared, random);
  std::vector<Prompt> prompts(kRequests);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const bool shares = i % 4 < 2;
    if (shares) prompts[i] = shared;
    append_random(prompts[i], shares ? kOwn : kShared + kOwn, random);
  }
  return prompts;
}

Vocabulary make_table() {
  Vocabulary table;
  table.add("</s>", true);
  for (TokenId token = 1; token < kVocab; ++token) table.add(std::to_string(token), false);
  return table;
}

struct Setting {
  std::string name;
  std::int32_t n_cells = 8192;
  Calibration calibration{{{1, 10e6}, {kChunkRows, 64e6}}};
  std::int32_t n_remembered = 0;
};

FakeOptions fake_options(const Setting& setting) {
  FakeOptions fake;
  fake.n_remembered = setting.n_remembered;
  fake.info.n_vocab = kVocab;
  fake.info.n_ctx = fake.info.n_ctx_train = setting.n_cells;
  fake.info.n_seqs = 8;
  fake.info.n_batch = fake.info.max_scored_rows = 256;
  fake.info.n_holders = 64;
  return fake;
}

PlanOptions plan_options(const Setting& setting) {
  PlanOptions plan;
  plan.packing = {256, 256};
  plan.calibration = setting.calibration;
  plan.learns = false;
  return plan;
}

void print(const std::string& name, std::int64_t value) {
  std::printf("%s %lld\n", name.c_str(), static_cast<long long>(value));
}

void run(const Setting& setting) {
  FakeBackend backend(fake_options(setting));
  const Vocabulary table = make_table();
  Engine engine(backend, table, {kVocab, setting.n_cells}, plan_options(setting));
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = 100;
  params.ignore_eos = true;
  std::vector<Delta> deltas;
  RequestId id = 0;
  for (Prompt& prompt : make_prompts()) {
    engine.submit(++id, std::move(prompt), params, 0, 0);
    if (id % 2 == 0) engine.step(deltas);
  }
  while (!engine.idle()) engine.step(deltas);
  const Metrics m = engine.metrics();
  const std::string& name = setting.name;
  print(name + ".steps", m.n_steps);
  print(name + ".decode_calls", backend.n_calls());
  print(name + ".prompt_tokens_computed", m.n_prefill_rows);
  print(name + ".next_tokens_computed", m.n_decode_rows);
  print(name + ".tokens_from_running", m.cache.n_from_running);
  print(name + ".tokens_from_finished", m.cache.n_from_finished);
  print(name + ".tokens_from_in_flight", m.cache.n_from_in_flight);
  print(name + ".cells_used_most", m.n_cells_used_max);
  print(name + ".cells_used_at_the_end", backend.n_cells_used());
  print(name + ".tokens_evicted", m.cache.n_evicted_for_cells);
  print(name + ".preemptions", m.n_preempted);
  print(name + ".guesses_computed", m.n_drafted);
  print(name + ".guesses_right", m.n_draft_accepted);
  print(name + ".output_tokens", m.n_output_tokens);
}

}  // namespace

int main() {
  run({"roomy"});
  run({"tight", 640});
  run({"guessing", 8192, {{{1, 10e6}, {kChunkRows, 11e6}}}, 1});
}

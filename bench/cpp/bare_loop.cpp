// Upper bound for an engine: the same rows with the same llama.cpp in the same shapes, without
// scheduler and sampler. All prompts are prefilled in one call; then every sequence decodes one row
// per call. Token ids do not affect the time and are arbitrary.
//
//   bare_loop MODEL [N_SEQS=8] [N_PROMPT=128] [N_NEW=64] [N_THREADS=all]
//
// Runs once per line on standard input and prints one line of JSON per run, so that it can
// alternate with another program while its model stays loaded.

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "cost/calibration.h"
#include "engine/engine.h"
#include "llama/backend/llama_backend.h"
#include "llama/model/llama_model.h"
#include "rows.h"

using namespace llamaherd;

namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Prefills all prompts, decodes all new tokens and clears the cache.
void run(Backend& backend, int n_seqs, int n_prompt, int n_new) {
  const double begin = seconds();
  Rows prefill;
  for (SeqId seq = 0; seq < n_seqs; ++seq) {
    prefill.add_prompt(seq, n_prompt);
  }
  prefill.decode(backend);
  const double prefilled = seconds();
  // The row of each sequence's last token is never computed, as in an engine.
  for (Pos pos = n_prompt; pos < n_prompt + n_new - 1; ++pos) {
    Rows rows;
    for (SeqId seq = 0; seq < n_seqs; ++seq) rows.add(seq, pos, true);
    rows.decode(backend);
  }
  const double end = seconds();
  for (SeqId seq = 0; seq < n_seqs; ++seq) {
    backend.remove(seq, 0, kToEnd);
  }
  std::printf("{\"seconds\": %.6f, \"prefill_seconds\": %.6f, \"tokens_per_s\": %.3f}\n",
              end - begin, prefilled - begin, n_seqs * n_new / (end - begin));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bare_loop MODEL [N_SEQS] [N_PROMPT] [N_NEW] [N_THREADS]\n");
    return 2;
  }
  const auto number = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  const int n_seqs = number(2, 8), n_prompt = number(3, 128), n_new = number(4, 64);
  EngineConfig config;
  config.max_seqs = n_seqs;
  config.token_budget = n_seqs * n_prompt;
  config.n_ctx = n_seqs * (n_prompt + n_new);
  config.n_threads = number(5, default_n_threads());

  LoadProgress progress;
  LlamaBackend backend(std::make_shared<LlamaModel>(argv[1], config, progress), config);
  warm_up(backend, {});

  char line[16];
  while (std::fgets(line, sizeof line, stdin)) run(backend, n_seqs, n_prompt, n_new);
}

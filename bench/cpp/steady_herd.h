#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "engine/engine.h"
#include "fake_backend.h"

namespace llamaherd {

struct SteadyOptions {
  Calibration calibration{{{1, 10e6}, {kChunkRows, 64e6}}};
  SamplingParams params;  // max_tokens and ignore_eos are set
  bool repeats = false;   // the model repeats itself, so that draft tokens are accepted
  bool trims = true;      // the memory can remove a part of a sequence
};

/// 16 requests that decode on the fake backend or another, without arrivals or ends, until each has
/// kMaxLen tokens. Planned by given costs: independent of time.
template <typename Model = FakeBackend>
class SteadyHerd {
 public:
  static constexpr std::int32_t kSeqs = 16;
  static constexpr Pos kPrompt = 64;
  static constexpr Pos kMaxLen = 1024;

  explicit SteadyHerd(const SteadyOptions& options)
      : backend_(fake_options(options)),
        engine_(backend_, table_, {kVocab, kMaxLen}, plan(options)) {
    SamplingParams params = options.params;
    params.max_tokens = kMaxLen - kPrompt;
    params.ignore_eos = true;
    std::mt19937 random(1);
    for (RequestId id = 1; id <= kSeqs; ++id) {
      std::vector<TokenId> prompt(kPrompt);
      for (TokenId& token : prompt) token = 1 + static_cast<TokenId>(random() % (kVocab - 3));
      engine_.submit(id, prompt, params, id, 0);
    }
  }

  void step() {
    deltas_.clear();
    engine_.step(deltas_);
    for (const Delta& delta : deltas_) n_tokens_ += std::ssize(delta.token_ids);
  }

  /// Runs until the requests have n tokens on average.
  void run_to(Pos n) {
    while (kSeqs * kPrompt + n_tokens_ < std::int64_t{kSeqs} * n) step();
  }

  bool any_ended() const { return metrics().n_finished_length > 0; }
  Metrics metrics() const { return engine_.metrics(); }

 private:
  static constexpr std::int32_t kVocab = 64;

  /// Letters and, like special tokens, empty pieces: the text of a step, including draft tokens,
  /// fits into a std::string's 15 inline bytes.
  static Vocabulary make_table() {
    Vocabulary table;
    table.add("</s>", true);
    for (TokenId token = 1; token < kVocab; ++token) table.add(token % 2 ? "x" : "", false);
    return table;
  }

  static FakeOptions fake_options(const SteadyOptions& options) {
    FakeOptions fake;
    fake.info.n_vocab = kVocab;
    fake.info.n_ctx = kSeqs * kMaxLen;
    fake.info.n_ctx_train = kMaxLen;
    fake.info.n_seqs = kSeqs;
    fake.info.n_batch = fake.info.max_scored_rows = 512;
    fake.info.n_holders = 2 * kSeqs;
    fake.info.partial_removal = options.trims;
    fake.n_remembered = options.repeats ? 1 : 0;
    return fake;
  }

  static PlanOptions plan(const SteadyOptions& options) {
    PlanOptions plan;
    plan.packing = {512, 512};
    plan.calibration = options.calibration;
    plan.learns = false;
    return plan;
  }

  Vocabulary table_ = make_table();
  Model backend_;
  Engine engine_;
  std::vector<Delta> deltas_;
  std::int64_t n_tokens_ = 0;
};

}  // namespace llamaherd

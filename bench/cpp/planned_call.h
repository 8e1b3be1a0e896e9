#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "engine/batch_builder.h"
#include "request/request.h"
#include "scheduler/step_plan.h"

namespace llamaherd {

/// A call planned by hand: decode rows of several requests, after 500 tokens each, and the first
/// rows of a prompt.
class PlannedCall {
 public:
  PlannedCall(std::int32_t n_decoding, Pos n_prompt) {
    table_.add("x", false);
    for (SeqId seq = 0; seq < n_decoding; ++seq) {
      Request& request = add_request(kHeld + 1, kHeld);
      call_.add(&request, seq, kHeld, kHeld + 1, true);
    }
    if (n_prompt == 0) return;
    call_.add(&add_request(n_prompt, 0), n_decoding, 0, n_prompt, true);
  }

  BatchView build() { return builder_.build(call_, 0); }

 private:
  static constexpr Pos kHeld = 500;

  Request& add_request(Pos n_tokens, Pos n_held) {
    std::vector<TokenId> tokens(n_tokens);
    for (TokenId& token : tokens) token = static_cast<TokenId>(random_() % 32000);
    requests_.push_back(std::make_unique<Request>(requests_.size() + 1, std::move(tokens),
                                                  SamplingParams(), 0, Limits{32000, 8192}, table_,
                                                  0));
    requests_.back()->commit_step(n_held, nullptr);
    return *requests_.back();
  }

  std::mt19937 random_{1};
  Vocabulary table_;
  std::vector<std::unique_ptr<Request>> requests_;
  CallPlan call_;
  BatchBuilder builder_{1000};
};

}  // namespace llamaherd

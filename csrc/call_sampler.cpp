#include "call_sampler.h"

#include "logprobs.h"

namespace llamaherd {

Staged CallSampler::sample(const PlannedRequest& item, Backend& backend) {
  Staged scored;
  if (!score(item, backend, scored.scores)) {
    scored.poisoned = true;
    return scored;
  }
  if (item.logits_row < 0) return scored;
  Staged staged = sample(*item.request, backend.logits(item.logits_row));
  staged.scores = std::move(scored.scores);
  return staged;
}

/// False: a row is not finite.
bool CallSampler::score(const PlannedRequest& item, Backend& backend,
                        std::vector<TokenLogprob>& scores) {
  const auto tokens = item.request->tokens();
  scores.reserve(item.score_end - item.score_begin);
  for (Pos pos = item.score_begin; pos < item.score_end; ++pos) {
    auto score = logprob_of(tokens[pos + 1], backend.logits(item.row_of(pos)),
                            *item.request->n_prompt_logprobs(), scratch_);
    if (!score) return false;
    scores.push_back(std::move(*score));
  }
  return true;
}

Staged CallSampler::sample(const Request& request, std::span<float> logits) {
  Staged staged;
  if (const auto forced = request.forced()) {
    staged.logprob = logprob_of(*forced, logits, *request.n_prompt_logprobs(), scratch_);
    if (staged.logprob) staged.token = forced;
  } else {
    const Sampler& sampler = request.sampler();
    std::span<const float> raw = logits;
    if (request.n_logprobs() && sampler.edits()) {
      scratch_.raw.assign(logits.begin(), logits.end());
      raw = scratch_.raw;
    }
    staged.token = sampler.sample(logits, scratch_);
    if (staged.token && request.n_logprobs()) {
      staged.logprob = logprob_of(*staged.token, raw, *request.n_logprobs(), scratch_);
    }
  }
  staged.poisoned = !staged.token;
  return staged;
}

}  // namespace llamaherd

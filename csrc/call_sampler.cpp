#include "call_sampler.h"

#include "logprobs.h"

namespace llamaherd {

Staged CallSampler::sample(const PlannedRequest& item, Backend& backend) {
  Staged scored;
  if (!score(item, backend, scored)) {
    scored.poisoned = true;
    return scored;
  }
  if (item.logits_row < 0) return scored;
  Staged staged = sample(*item.request, backend.logits(item.logits_row));
  staged.scores = std::move(scored.scores);
  return staged;
}

/// False: a row is not finite.
bool CallSampler::score(const PlannedRequest& item, Backend& backend, Staged& staged) {
  const auto tokens = item.request->tokens();
  for (Pos pos = item.score_begin; pos < item.score_end; ++pos) {
    Logprobs logprobs(backend.logits(item.row_of(pos)), scratch_);
    if (!logprobs.finite()) return false;
    staged.scores.push_back(logprobs.of(tokens[pos + 1], *item.request->n_prompt_logprobs()));
  }
  return true;
}

Staged CallSampler::sample(const Request& request, std::span<float> logits) {
  Staged staged;
  if (const auto forced = request.forced()) {
    Logprobs logprobs(logits, scratch_);
    staged.poisoned = !logprobs.finite();
    if (staged.poisoned) return staged;
    staged.token = forced;
    staged.logprob = logprobs.of(*forced, *request.n_prompt_logprobs());
    return staged;
  }
  if (request.n_logprobs()) scratch_.raw.assign(logits.begin(), logits.end());
  staged.token = request.sampler().sample(logits, scratch_);
  staged.poisoned = !staged.token;
  if (staged.token && request.n_logprobs()) {
    staged.logprob = Logprobs(scratch_.raw, scratch_).of(*staged.token, *request.n_logprobs());
  }
  return staged;
}

}  // namespace llamaherd

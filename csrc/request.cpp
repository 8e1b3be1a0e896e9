#include "request.h"

#include <algorithm>
#include <utility>

namespace llamaherd {
namespace {

std::int32_t fitting_max_tokens(const SamplingParams& params, std::size_t n_prompt,
                                const Limits& limits) {
  return std::min(params.max_tokens.value_or(kDefaultMaxTokens),
                  limits.max_len - static_cast<std::int32_t>(n_prompt));
}

}  // namespace

Request::Request(RequestId id, std::vector<TokenId> prompt, const SamplingParams& params,
                 std::uint64_t seed, const Limits& limits, const TokenTable& table,
                 std::int64_t submit_ns)
    : id_(id),
      tokens_(std::move(prompt)),
      n_prompt_(static_cast<Pos>(tokens_.size())),
      max_tokens_(fitting_max_tokens(params, tokens_.size(), limits)),
      min_tokens_(params.min_tokens),
      ignore_eos_(params.ignore_eos),
      echo_pending_(params.echo),
      stop_token_ids_(params.stop_token_ids),
      sampler_(params, seed, table, tokens_, max_tokens_),
      text_(params.stop) {
  tokens_.reserve(tokens_.size() + max_tokens_);  // commit_step() must not throw
  timing_.submit_ns = submit_ns;
}

void Request::start(SeqId seq, Pos kv_len, std::int64_t now_ns) {
  seq_ = seq;
  state_ = State::kRunning;
  if (timing_.start_ns == 0) timing_.start_ns = now_ns;
  share(kv_len);
}

void Request::stop() {
  seq_ = kNoSeq;
  state_ = State::kWaiting;
  kv_len_ = 0;
  n_restorable = 0;
  if (n_output() == 0) n_cached_ = 0;
}

void Request::share(Pos kv_len) {
  if (n_output() == 0) n_cached_ += kv_len - kv_len_;
  kv_len_ = kv_len;
}

void Request::commit_step(Pos kv_len, const TokenId* sampled) noexcept {
  kv_len_ = kv_len;
  if (kv_len > kv_len_max_) {
    kv_len_max_ = kv_len;
    n_strikes = 0;
  }
  if (sampled == nullptr) return;
  tokens_.push_back(*sampled);
  sampler_.accept(*sampled);
}

bool Request::is_stop_token(TokenId token, const TokenTable& table) const {
  if (!ignore_eos_ && table.ends_generation(token)) return true;
  return std::find(stop_token_ids_.begin(), stop_token_ids_.end(), token) != stop_token_ids_.end();
}

Delta Request::make_delta(std::int64_t now_ns) {
  timing_.last_ns = now_ns;
  Delta delta;
  delta.request_id = id_;
  delta.n_prompt = n_prompt_;
  delta.n_cached = n_cached_;
  delta.n_completion = n_output();
  delta.timing = timing_;
  delta.token_ids = std::exchange(held_token_ids_, {});
  delta.text = std::exchange(held_text_, {});
  return delta;
}

void Request::hold(Delta delta) {
  held_token_ids_ = std::move(delta.token_ids);
  held_text_ = std::move(delta.text);
}

Delta Request::take_delta(const TokenTable& table, std::int64_t now_ns) {
  if (timing_.first_token_ns == 0 && n_output() > 0) timing_.first_token_ns = now_ns;
  Delta delta = make_delta(now_ns);
  if (echo_pending_) {
    // The prompt goes through a stream of its own: stop strings are looked for in the output only.
    TextStream prompt_text({});
    for (Pos i = 0; i < n_prompt_; ++i) prompt_text.put(table.piece(tokens_[i]), false, delta.text);
    prompt_text.finish(delta.text);
    echo_pending_ = false;
  }
  for (; n_shown_ < n_output() && !delta.finish_reason; ++n_shown_) {
    const TokenId token = tokens_[n_prompt_ + n_shown_];
    delta.token_ids.push_back(token);
    if (is_stop_token(token, table)) {
      delta.finish_reason = FinishReason::kStop;
      break;
    }
    text_.put(table.piece(token), n_shown_ + 1 >= min_tokens_, delta.text);
    if (text_.stopped()) {
      delta.finish_reason = FinishReason::kStop;
    } else if (n_shown_ + 1 == max_tokens_) {
      delta.finish_reason = FinishReason::kLength;
    }
  }
  if (delta.finish_reason) {
    text_.finish(delta.text);
    state_ = State::kFinished;
  }
  return delta;
}

Delta Request::finish(FinishReason reason, std::string error, std::int64_t now_ns) {
  Delta delta = make_delta(now_ns);
  delta.n_completion = n_shown_;  // a fatal error may leave tokens committed and never handed out
  delta.finish_reason = reason;
  delta.error = std::move(error);
  text_.finish(delta.text);
  state_ = State::kFinished;
  return delta;
}

}  // namespace llamaherd

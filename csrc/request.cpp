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

std::int32_t least_output(const SamplingParams& params, std::int32_t max_tokens) {
  const bool ends_by_length =
      params.ignore_eos && params.stop.empty() && params.stop_token_ids.empty();
  return ends_by_length ? max_tokens : std::clamp(params.min_tokens, 1, max_tokens);
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
      n_output_least_(least_output(params, max_tokens_)),
      ignore_eos_(params.ignore_eos),
      echo_pending_(params.echo),
      stop_token_ids_(params.stop_token_ids),
      sampler_(params, seed, table, tokens_, max_tokens_),
      text_(params.stop) {
  tokens_.reserve(tokens_.size() + max_tokens_);  // commit_step() must not throw
  timing_.submit_ns = spent_until_ns_ = submit_ns;
}

void Request::start(SeqId seq, Pos kv_len, std::int64_t now_ns) {
  spend(waiting_kind(), now_ns);
  following.reset();
  seq_ = seq;
  state_ = State::kRunning;
  if (timing_.start_ns == 0) timing_.start_ns = now_ns;
  share(kv_len);
  started_at_ = kv_len;
}

void Request::stop(std::int64_t now_ns) {
  spend(Spent::kEngine, now_ns);
  seq_ = kNoSeq;
  state_ = State::kWaiting;
  n_computed_ = std::max(n_computed_, kv_len_);
  kv_len_ = started_at_ = 0;
  n_restorable = 0;
}

void Request::preempt(std::int64_t now_ns) {
  stop(now_ns);
  ++timing_.n_preempted;
}

/// What the request had computed itself does not count as cached when it is found again.
void Request::share(Pos kv_len) {
  if (n_output() == 0) n_cached_ += std::max(0, kv_len - std::max(kv_len_, n_computed_));
  kv_len_ = kv_len;
}

Spent Request::waiting_kind() const {
  if (following) return Spent::kFollowing;
  return timing_.start_ns == 0 ? Spent::kQueued : Spent::kPreempted;
}

void Request::spend(Spent kind, std::int64_t now_ns) {
  if (now_ns <= spent_until_ns_) return;
  timing_.spent[static_cast<std::size_t>(kind)] += now_ns - spent_until_ns_;
  if (trace != nullptr) trace->spent(id_, kind, spent_until_ns_, now_ns);
  spent_until_ns_ = now_ns;
}

void Request::spend(std::initializer_list<std::pair<Spent, double>> weights, std::int64_t now_ns) {
  double left = 0;
  for (const auto& [kind, weight] : weights) left += weight;
  for (const auto& [kind, weight] : weights) {
    if (weight <= 0) continue;
    const auto n = static_cast<double>(now_ns - spent_until_ns_) * std::min(1.0, weight / left);
    spend(kind, weight < left ? spent_until_ns_ + static_cast<std::int64_t>(n) : now_ns);
    left -= weight;
  }
}

void Request::commit_step(Pos kv_len, const TokenId* sampled) noexcept {
  kv_len_ = kv_len;
  if (kv_len > n_computed_) {
    n_computed_ = kv_len;
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
  spend(state_ == State::kWaiting ? waiting_kind() : Spent::kEngine, now_ns);
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

#include "request/request.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

namespace llamaherd {
namespace {

static_assert(StepTokens::kShort > kMostDrafted);

/// With max_tokens 0: the last prompt token, which is not computed.
std::optional<TokenId> forced_token(const std::vector<TokenId>& prompt,
                                    const SamplingParams& params) {
  if (params.max_tokens != 0) return std::nullopt;
  return prompt.back();
}

std::int32_t fitting_max_tokens(const SamplingParams& params, std::size_t n_prompt,
                                const Limits& limits) {
  if (params.max_tokens == 0) return 1;
  return std::min(params.max_tokens.value_or(kDefaultMaxTokens),
                  limits.max_len - static_cast<std::int32_t>(n_prompt));
}

std::int32_t least_output(const SamplingParams& params, std::int32_t max_tokens) {
  const bool ends_by_length =
      params.ignore_eos && params.stop.empty() && params.stop_token_ids.empty();
  return ends_by_length ? max_tokens : std::clamp(params.min_tokens, 1, max_tokens);
}

std::int32_t n_characters(std::string_view bytes) {
  return static_cast<std::int32_t>(
      std::ranges::count_if(bytes, [](char byte) { return (byte & 0xC0) != 0x80; }));
}

}  // namespace

Request::Request(RequestId id, SharedValue<std::vector<TokenId>> prompt,
                 SharedValue<SamplingParams> params, std::uint64_t seed, const Limits& limits,
                 const Vocabulary& table, std::int64_t submit_ns)
    : id_(id),
      prompt_(std::move(prompt)),
      params_(std::move(params)),
      seed_(seed),
      table_(table),
      forced_(forced_token(*prompt_, *params_)),
      n_prompt_(static_cast<Pos>(prompt_->size()) - (forced_ ? 1 : 0)),
      n_scored_(params_->prompt_logprobs ? std::min(params_->prompt_logprobs_from, n_prompt_)
                                         : n_prompt_),
      max_tokens_(fitting_max_tokens(*params_, static_cast<std::size_t>(n_prompt_), limits)),
      n_output_least_(least_output(*params_, max_tokens_)),
      text_(params_.part(&SamplingParams::stop)) {
  timing_.submit_ns = spent_until_ns_ = submit_ns;
}

/// Reserves the memory of commit_step() and other functions that must not throw.
void Request::prepare_output() {
  const auto prompt = tokens();
  tokens_.reserve(prompt.size() + max_tokens_);
  if (params_->prompt_logprobs) prompt_logprobs_.reserve(n_prompt_ + 1 - n_scored_);
  if (params_->logprobs) logprobs_.reserve(1);
  if (params_->prompt_lookup) draft.tokens.reserve(kMostDrafted);
  tokens_.assign(prompt.begin(), prompt.end());
  sampler_.emplace(params_, seed_, table_, tokens_, max_tokens_);
}

void Request::start(SeqId seq, Pos kv_len, std::int64_t now_ns) {
  if (!sampler_) prepare_output();
  spend(waiting_kind(), now_ns);
  admission.following.reset();
  seq_ = seq;
  state_ = State::kRunning;
  if (timing_.start_ns == 0) timing_.start_ns = now_ns;
  share(kv_len);
  started_at_ = kv_len;
}

void Request::stop(std::int64_t now_ns) {
  spend(TimeCategory::kEngine, now_ns);
  seq_ = kNoSeq;
  state_ = State::kWaiting;
  n_computed_ = std::max(n_computed_, kv_len_);
  kv_len_ = started_at_ = 0;
  admission.n_restorable = 0;
}

void Request::preempt(std::int64_t now_ns) {
  stop(now_ns);
  ++timing_.n_preempted;
}

/// Tokens that the request itself computed earlier do not count as cached.
void Request::share(Pos kv_len) {
  if (n_output() == 0) n_cached_ += std::max(0, kv_len - std::max(kv_len_, n_computed_));
  kv_len_ = kv_len;
}

RequestProgress Request::progress(std::int64_t now_ns) const {
  return {.n_prompt = n_given(),
          .n_cached = n_cached_,
          .n_computed = std::min(kv_len_, n_given()),
          .n_preempted = timing_.n_preempted,
          .start_ns = timing_.start_ns,
          .time_ns = now_ns};
}

TimeCategory Request::waiting_kind() const {
  if (admission.following) return TimeCategory::kFollowing;
  return timing_.start_ns == 0 ? TimeCategory::kQueued : TimeCategory::kPreempted;
}

void Request::spend(TimeCategory kind, std::int64_t now_ns) {
  if (now_ns <= spent_until_ns_) return;
  timing_.spent[static_cast<std::size_t>(kind)] += now_ns - spent_until_ns_;
  if (delivery.trace != nullptr) delivery.trace->spent(id_, kind, spent_until_ns_, now_ns);
  spent_until_ns_ = now_ns;
}

void Request::spend(std::initializer_list<std::pair<TimeCategory, double>> weights,
                    std::int64_t now_ns) {
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
    recovery.n_strikes = 0;
  }
  if (sampled == nullptr) return;
  tokens_.push_back(*sampled);
  sampler_->accept(*sampled);
  if (constrained.constraint) constrained.constraint->accept(*sampled);
}

/// No draft tokens with log-probabilities, which would have to be kept until verification, or with
/// penalties or constraints, which depend on the output tokens.
std::int32_t Request::n_guessable() const {
  if (!params_->prompt_lookup || !decodes() || params_->logprobs || constrained.constraint ||
      sampler_->has_penalties()) {
    return 0;
  }
  return std::min(max_tokens_ - n_output() - 1, kMostDrafted);
}

std::pair<Pos, Pos> Request::rows_to_score(Pos begin, Pos end) const {
  if (!scores()) return {begin, begin};
  const Pos first = std::max(begin, n_scored_ - 1);
  return {first, std::max(first, std::min(end, n_prompt_ - 1))};
}

void Request::commit_scores(std::vector<TokenLogprob>&& scores) noexcept {
  n_scored_ += static_cast<Pos>(scores.size());
  std::ranges::move(scores, std::back_inserter(prompt_logprobs_));
}

void Request::commit_logprob(TokenLogprob&& logprob) noexcept {
  auto& to = forced_ ? prompt_logprobs_ : logprobs_;
  to.push_back(std::move(logprob));
}

bool Request::is_stop_token(TokenId token) const {
  if (!params_->ignore_eos && table_.ends_generation(token)) return true;
  return std::ranges::find(params_->stop_token_ids, token) != params_->stop_token_ids.end();
}

std::string_view Request::output_piece(TokenId token) const {
  const auto& names = params_->preserved_tokens;
  const bool preserved = std::ranges::find(names, token) != names.end();
  return preserved ? table_.name(token) : table_.piece(token);
}

Delta Request::make_delta(std::int64_t now_ns) {
  spend(state_ == State::kWaiting ? waiting_kind() : TimeCategory::kEngine, now_ns);
  timing_.last_ns = now_ns;
  Delta delta = std::exchange(held_, {});
  delta.request_id = id_;
  delta.index = delivery.index;
  delta.n_prompt = n_given();
  delta.n_cached = n_cached_;
  delta.timing = timing_;
  return delta;
}

/// Adds the prompt's text and scores to the delta of the first output token. Offsets of output
/// tokens start at the beginning of the prompt if the text includes it.
void Request::hand_out_prompt(Delta& delta) {
  const bool echo = params_->echo;
  if (!echo && !params_->prompt_logprobs) return;
  // A separate detokenizer: stop strings apply to the output only.
  Detokenizer text{StopStrings{}};
  auto score = prompt_logprobs_.begin();
  const Pos first_scored = n_given() - static_cast<Pos>(prompt_logprobs_.size());
  for (Pos i = 0; i < n_given(); ++i) {
    const std::string_view piece = table_.piece((*prompt_)[i]);
    if (i >= first_scored) (score++)->text_offset = text_offset_;
    text_offset_ += n_characters(piece);
    if (echo) text.put(piece, false, delta.text);
  }
  if (echo) {
    text.finish(delta.text);
  } else {
    text_offset_ = 0;
  }
  delta.prompt_logprobs = std::move(prompt_logprobs_);
}

Delta Request::take_delta(std::int64_t now_ns) {
  if (timing_.first_token_ns == 0 && n_output() > 0) timing_.first_token_ns = now_ns;
  Delta delta = make_delta(now_ns);
  if (n_shown_ == 0) hand_out_prompt(delta);
  if (forced_) delta.finish_reason = FinishReason::kLength;
  for (TokenLogprob& logprob : logprobs_) {
    logprob.text_offset = text_offset_;
    text_offset_ += n_characters(output_piece(logprob.token));
    delta.logprobs.push_back(std::move(logprob));
  }
  logprobs_.clear();
  const auto n_held = delta.token_ids.size();
  const std::int32_t n_before = n_shown_;
  for (; n_shown_ < n_output() && !delta.finish_reason; ++n_shown_) {
    const TokenId token = tokens_[n_prompt_ + n_shown_];
    delta.token_ids.push_back(token);
    if (is_stop_token(token)) {
      delta.finish_reason = FinishReason::kStop;
      break;
    }
    text_.put(output_piece(token), n_shown_ + 1 >= params_->min_tokens, delta.text);
    if (text_.stopped()) {
      delta.finish_reason = FinishReason::kStop;
    } else if (n_shown_ + 1 == max_tokens_) {
      delta.finish_reason = FinishReason::kLength;
    }
  }
  // Tokens after the one that ends the request are dropped.
  delta.n_completion = n_before + static_cast<std::int32_t>(delta.token_ids.size() - n_held);
  if (delta.finish_reason) {
    text_.finish(delta.text);
    state_ = State::kFinished;
  }
  return delta;
}

Delta Request::finish(FinishReason reason, std::string error, std::int64_t now_ns) {
  Delta delta = make_delta(now_ns);
  delta.n_completion = n_shown_;  // after a fatal error, committed tokens may be undelivered
  delta.finish_reason = reason;
  delta.error = std::move(error);
  text_.finish(delta.text);
  state_ = State::kFinished;
  return delta;
}

}  // namespace llamaherd

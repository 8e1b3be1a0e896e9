#include "request.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

namespace llamaherd {
namespace {

static_assert(StepTokens::kShort > kMostDrafted);

/// With max_tokens 0: the last token, taken off the prompt.
std::optional<TokenId> take_forced(std::vector<TokenId>& prompt, const SamplingParams& params) {
  if (params.max_tokens != 0) return std::nullopt;
  const TokenId last = prompt.back();
  prompt.pop_back();
  return last;
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

Request::Request(RequestId id, std::vector<TokenId> prompt, const SamplingParams& params,
                 std::uint64_t seed, const Limits& limits, const TokenTable& table,
                 std::int64_t submit_ns)
    : id_(id),
      n_logprobs_(params.logprobs),
      n_prompt_logprobs_(params.prompt_logprobs),
      forced_(take_forced(prompt, params)),
      tokens_(std::move(prompt)),
      n_prompt_(static_cast<Pos>(tokens_.size())),
      n_scored_(params.prompt_logprobs ? std::min(params.prompt_logprobs_from, n_prompt_)
                                       : n_prompt_),
      max_tokens_(fitting_max_tokens(params, tokens_.size(), limits)),
      min_tokens_(params.min_tokens),
      n_output_least_(least_output(params, max_tokens_)),
      ignore_eos_(params.ignore_eos),
      echo_(params.echo),
      looks_up_(params.prompt_lookup),
      stop_token_ids_(params.stop_token_ids),
      preserved_tokens_(params.preserved_tokens),
      sampler_(params, seed, table, tokens_, max_tokens_),
      text_(params.stop) {
  // What is committed must not throw.
  tokens_.reserve(tokens_.size() + max_tokens_);
  if (params.prompt_logprobs) prompt_logprobs_.reserve(n_prompt_ + 1 - n_scored_);
  if (params.logprobs) logprobs_.reserve(1);
  if (looks_up_) guesses.reserve(kMostDrafted);
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
  if (constraint) constraint->accept(*sampled);
}

/// A guess's log-probability would have to be kept until it is known to be right, and penalties and
/// grammars know what is output only: such requests do without.
std::int32_t Request::n_guessable() const {
  if (!looks_up_ || !decodes() || n_logprobs_ || constraint || sampler_.has_penalties()) return 0;
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

bool Request::is_stop_token(TokenId token, const TokenTable& table) const {
  if (!ignore_eos_ && table.ends_generation(token)) return true;
  return std::find(stop_token_ids_.begin(), stop_token_ids_.end(), token) != stop_token_ids_.end();
}

std::string_view Request::output_piece(TokenId token, const TokenTable& table) const {
  const bool preserved = std::ranges::find(preserved_tokens_, token) != preserved_tokens_.end();
  return preserved ? table.name(token) : table.piece(token);
}

Delta Request::make_delta(std::int64_t now_ns) {
  spend(state_ == State::kWaiting ? waiting_kind() : Spent::kEngine, now_ns);
  timing_.last_ns = now_ns;
  Delta delta = std::exchange(held_, {});
  delta.request_id = id_;
  delta.index = index;
  delta.n_prompt = n_given();
  delta.n_cached = n_cached_;
  delta.timing = timing_;
  return delta;
}

/// The prompt's text and scores, before the first output token. Offsets of output tokens count from
/// the prompt's beginning if the prompt is part of the text.
void Request::hand_out_prompt(const TokenTable& table, Delta& delta) {
  if (!echo_ && !n_prompt_logprobs_) return;
  // A stream of its own: stop strings are looked for in the output only.
  TextStream text({});
  auto score = prompt_logprobs_.begin();
  const Pos first_scored = n_given() - static_cast<Pos>(prompt_logprobs_.size());
  for (Pos i = 0; i < n_given(); ++i) {
    const std::string_view piece = table.piece(tokens_[i]);
    if (i >= first_scored) (score++)->text_offset = text_offset_;
    text_offset_ += n_characters(piece);
    if (echo_) text.put(piece, false, delta.text);
  }
  if (echo_) {
    text.finish(delta.text);
  } else {
    text_offset_ = 0;
  }
  delta.prompt_logprobs = std::move(prompt_logprobs_);
}

Delta Request::take_delta(const TokenTable& table, std::int64_t now_ns) {
  if (timing_.first_token_ns == 0 && n_output() > 0) timing_.first_token_ns = now_ns;
  Delta delta = make_delta(now_ns);
  if (n_shown_ == 0) hand_out_prompt(table, delta);
  if (forced_) delta.finish_reason = FinishReason::kLength;
  for (TokenLogprob& logprob : logprobs_) {
    logprob.text_offset = text_offset_;
    text_offset_ += n_characters(output_piece(logprob.token, table));
    delta.logprobs.push_back(std::move(logprob));
  }
  logprobs_.clear();
  const auto n_held = delta.token_ids.size();
  const std::int32_t n_before = n_shown_;
  for (; n_shown_ < n_output() && !delta.finish_reason; ++n_shown_) {
    const TokenId token = tokens_[n_prompt_ + n_shown_];
    delta.token_ids.push_back(token);
    if (is_stop_token(token, table)) {
      delta.finish_reason = FinishReason::kStop;
      break;
    }
    text_.put(output_piece(token, table), n_shown_ + 1 >= min_tokens_, delta.text);
    if (text_.stopped()) {
      delta.finish_reason = FinishReason::kStop;
    } else if (n_shown_ + 1 == max_tokens_) {
      delta.finish_reason = FinishReason::kLength;
    }
  }
  // Tokens behind the one that ends it are nobody's.
  delta.n_completion = n_before + static_cast<std::int32_t>(delta.token_ids.size() - n_held);
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

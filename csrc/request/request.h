#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/shared_value.h"
#include "common/types.h"
#include "common/vocabulary.h"
#include "config/params.h"
#include "request/detokenizer.h"
#include "sampling/sampler.h"
#include "sampling/token_constraint.h"
#include "speculation/speculation_policy.h"
#include "telemetry/trace_log.h"

namespace llamaherd {

/// What decides whose turn it is.
struct SchedulingKey {
  std::int32_t priority = 0;  // the class: lower first. Becomes lower as the request waits.
  std::string tenant;
  std::int64_t deadline_ns = kNever;       // by when it should have ended
  std::int64_t ttft_deadline_ns = kNever;  // by when it should have its first token
};

/// Its place in the queue: written by RequestQueue, but n_passed by the scheduler's admission.
struct QueueEntry {
  SchedulingKey key;
  std::int64_t ages_ns = kNever;          // when its priority rises
  std::int64_t latest_start_ns = kNever;  // a later start would miss a deadline
  std::int32_t n_charged = 0;             // tokens its tenant was charged in advance
  std::int32_t n_passed = 0;              // later requests admitted while it did not fit
};

/// What the scheduler notes for admission and packing.
struct AdmissionState {
  /// While it waits for tokens that another request computes: whose, and up to which.
  struct Following {
    RequestId leader = 0;
    Pos until = 0;
    Pos n_had = 0;  // cached tokens it could have used without waiting
    std::int64_t since_ns = 0;
  };

  std::optional<Following> following;
  std::set<Pos> cuts;    // where its prefill stops, so that others can share up to there
  Pos n_restorable = 0;  // tokens it will have once the lower cache tiers are loaded
  std::int64_t last_missed_step = 0;  // when other requests last had the rows it could have had
};

/// Draft tokens of the step under way: written by the scheduler, judged by StepGuard.
struct DraftState {
  std::vector<TokenId> tokens;
  AcceptanceTracker acceptance;
};

/// What its output must obey: the row of logits is kept by the engine while its mask is late, and
/// no token is pending then.
struct ConstraintState {
  std::shared_ptr<Constraint> constraint;
  std::vector<float> late_row;
  std::int64_t late_since_ns = 0;
};

/// Failures, counted by the engine's recovery.
struct RecoveryState {
  int n_strikes = 0;  // alone, since it last got further than before
};

/// How results leave: fixed at submission.
struct DeliveryOptions {
  std::int32_t index = 0;     // among the requests made of one prompt
  bool streamed = true;       // false: only the last delta is delivered, with everything
  TraceLog* trace = nullptr;  // is told what spend() is told
};

/// One request's cursors and state. The token axis, with 0 <= kv_len <= n_tokens:
///
///   [0, n_prompt)          the prompt
///   [n_prompt, n_tokens)   output
///   [0, kv_len)            in the KV cache, committed
///   [kv_len, n_tokens)     pending: to be run; decoding means that exactly one is
class Request {
 public:
  enum class State { kWaiting, kRunning, kFinished };

  /// Prompt and parameters must be valid. A max_tokens beyond what fits is cut to it. `table` must
  /// outlive it. Until it is started for the first time it holds no memory that grows with either.
  Request(RequestId id, SharedValue<std::vector<TokenId>> prompt,
          SharedValue<SamplingParams> params, std::uint64_t seed, const Limits& limits,
          const Vocabulary& table, std::int64_t submit_ns);

  QueueEntry queue_entry;
  AdmissionState admission;
  DraftState draft;
  ConstraintState constrained;
  RecoveryState recovery;
  DeliveryOptions delivery;

  /// Which cached prefixes it shares; none: it shares nothing and leaves nothing.
  std::optional<CacheNamespace> cache_space;

  RequestId id() const { return id_; }
  State state() const { return state_; }
  SeqId seq() const { return seq_; }
  Pos n_prompt() const { return n_prompt_; }
  Pos n_tokens() const { return static_cast<Pos>(tokens().size()); }
  Pos n_output() const { return n_tokens() - n_prompt_; }
  Pos kv_len() const { return kv_len_; }
  Pos n_pending() const { return n_tokens() - kv_len_; }
  /// Its next row is for its next token.
  bool decodes() const { return n_pending() == 1 && n_output() > 0; }
  std::span<const TokenId> tokens() const {
    return sampler_ ? std::span<const TokenId>(tokens_) : std::span(*prompt_).first(n_prompt_);
  }
  /// Of a request that was started.
  const Sampler& sampler() const { return *sampler_; }

  /// Tokens it may have from the cache without computing their rows: those behind are for its next
  /// token, or for the log-probabilities of its prompt.
  Pos n_reusable() const { return scores() ? n_scored_ - 1 : n_tokens() - 1; }
  /// Whether log-probabilities of prompt tokens are still to be found.
  bool scores() const { return n_scored_ < n_prompt_; }
  /// Rows of [begin, end) whose logits are wanted for these, as [first, last).
  std::pair<Pos, Pos> rows_to_score(Pos begin, Pos end) const;
  std::optional<std::int32_t> n_prompt_logprobs() const { return params_->prompt_logprobs; }
  std::optional<std::int32_t> n_logprobs() const { return params_->logprobs; }
  /// With max_tokens 0: the prompt's last token, which is not run, but looked up in the logits
  /// behind the others as if it had been sampled.
  std::optional<TokenId> forced() const { return forced_; }

  /// Cells this request can come to hold: all its tokens but the last output, which is never run.
  std::int32_t n_cells_needed() const { return n_prompt_ + max_tokens_ - 1; }

  std::int32_t max_tokens() const { return max_tokens_; }
  /// Output tokens it will have at least, unless it is cancelled.
  std::int32_t n_output_least() const { return n_output_least_; }

  /// Output tokens handed out in deltas.
  Pos n_shown() const { return n_shown_; }

  std::int32_t n_preempted() const { return timing_.n_preempted; }
  /// Tokens run since it was started last.
  Pos n_progress() const { return kv_len_ - started_at_; }
  /// Tokens below this one were in its cache before.
  Pos n_computed() const { return n_computed_; }

  /// `kv_len` tokens are in the sequence's cache already.
  void start(SeqId seq, Pos kv_len, std::int64_t now_ns);

  /// Back to waiting: its sequence is gone, its tokens and its sampler stay as they are.
  void stop(std::int64_t now_ns);

  /// As stop(), in favour of others.
  void preempt(std::int64_t now_ns);

  /// The time since the last call went into this; or into several, in proportion to their weights.
  void spend(TimeCategory kind, std::int64_t now_ns);
  void spend(std::initializer_list<std::pair<TimeCategory, double>> weights, std::int64_t now_ns);
  std::int64_t spent_until_ns() const { return spent_until_ns_; }

  /// Tokens that may be guessed behind the next one.
  std::int32_t n_guessable() const;

  /// What waiting is now.
  TimeCategory waiting_kind() const;

  /// Tokens up to `kv_len` came into the cache without being computed for this request.
  void share(Pos kv_len);

  /// Tokens up to `kv_len` are in the cache; `sampled`, if not null, is the next output token.
  void commit_step(Pos kv_len, const TokenId* sampled) noexcept;

  /// The next prompt tokens' log-probabilities, and the next output token's: with the commit_step()
  /// of the same call.
  void commit_scores(std::vector<TokenLogprob>&& scores) noexcept;
  void commit_logprob(TokenLogprob&& logprob) noexcept;

  /// After the cache lost this sequence: all of it is pending again.
  void forget_kv() noexcept {
    if (kv_len_ > n_computed_) n_computed_ = kv_len_;
    kv_len_ = started_at_ = 0;
  }

  /// Keeps what a delta holds for the next one.
  void hold(Delta delta) { held_ = std::move(delta); }

  /// What commit_step() gained since the last call, with a finish reason if the last token, the
  /// text or max_tokens ends the request.
  Delta take_delta(std::int64_t now_ns);

  /// A last delta without new tokens. Text held back is given out.
  Delta finish(FinishReason reason, std::string error, std::int64_t now_ns);

 private:
  void prepare_output();
  Delta make_delta(std::int64_t now_ns);
  /// Tokens of the prompt as it was given.
  Pos n_given() const { return n_prompt_ + (forced_ ? 1 : 0); }
  void hand_out_prompt(Delta& delta);
  bool is_stop_token(TokenId token) const;
  /// What an output token adds to the text.
  std::string_view output_piece(TokenId token) const;

  RequestId id_;
  SharedValue<std::vector<TokenId>> prompt_;
  SharedValue<SamplingParams> params_;
  std::uint64_t seed_;
  const Vocabulary& table_;
  std::optional<TokenId> forced_;
  State state_ = State::kWaiting;
  SeqId seq_ = kNoSeq;
  std::vector<TokenId> tokens_;     // of a request that was started
  std::optional<Sampler> sampler_;  // the same
  Pos n_prompt_;
  Pos n_scored_;  // prompt tokens below this one need no log-probability (any more)
  Pos kv_len_ = 0;
  Pos started_at_ = 0;
  Pos n_computed_ = 0;
  Pos n_cached_ = 0;
  Pos n_shown_ = 0;                                       // output tokens handed out in deltas
  Delta held_;                                            // goes into the next one
  std::vector<TokenLogprob> logprobs_, prompt_logprobs_;  // not handed out yet
  std::int32_t max_tokens_;
  std::int32_t n_output_least_;
  std::int32_t text_offset_ = 0;
  Detokenizer text_;
  Timing timing_;
  std::int64_t spent_until_ns_;
};

}  // namespace llamaherd

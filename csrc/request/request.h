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

/// Determines a request's position in the queue.
struct SchedulingKey {
  std::int32_t priority = 0;  // the class; lowered (raised in urgency) while the request waits
  std::string tenant;
  std::int64_t deadline_ns = kNever;       // end of the request
  std::int64_t ttft_deadline_ns = kNever;  // first output token
};

/// Queue state. Written by RequestQueue, except n_passed: by the scheduler's admission.
struct QueueEntry {
  SchedulingKey key;
  std::int64_t ages_ns = kNever;          // when the priority is raised
  std::int64_t latest_start_ns = kNever;  // a later start would miss a deadline
  std::int32_t n_charged = 0;             // tokens charged to the tenant in advance
  std::int32_t n_passed = 0;              // later requests admitted while it did not fit
};

/// State of admission and packing, written by the scheduler.
struct AdmissionState {
  /// Set while the request waits for tokens [0, until) that `leader` computes.
  struct Following {
    RequestId leader = 0;
    Pos until = 0;
    Pos n_had = 0;  // cached tokens available without waiting
    std::int64_t since_ns = 0;
  };

  std::optional<Following> following;
  std::set<Pos> cuts;  // positions at which its prefill stops, so that others can share up to there
  Pos n_restorable = 0;               // tokens available after the lower cache tiers are loaded
  std::int64_t last_missed_step = 0;  // last step in which it got no decode row
};

/// Draft tokens of the current step: written by the scheduler, verified by StepGuard.
struct DraftState {
  std::vector<TokenId> tokens;
  AcceptanceTracker acceptance;
};

/// Constraint of the output. If the mask of the next token is late, the engine keeps the row of
/// logits and no token is pending.
struct ConstraintState {
  std::shared_ptr<Constraint> constraint;
  std::vector<float> late_row;
  std::int64_t late_since_ns = 0;
};

/// Failure count, written by FailureRecovery.
struct RecoveryState {
  int n_strikes = 0;  // failures alone since it last progressed
};

/// How results are delivered. Fixed at submission.
struct DeliveryOptions {
  std::int32_t index = 0;     // index among the outputs of one prompt
  bool streamed = true;       // false: only the last delta is delivered, with the whole output
  TraceLog* trace = nullptr;  // records the calls of spend()
};

/// One request's cursors and state. The token axis, with 0 <= kv_len <= n_tokens:
///
///   [0, n_prompt)          the prompt
///   [n_prompt, n_tokens)   output
///   [0, kv_len)            in the KV cache, committed
///   [kv_len, n_tokens)     pending: to be computed; exactly one while decoding
class Request {
 public:
  enum class State { kWaiting, kRunning, kFinished };

  /// Prompt and parameters must be valid. max_tokens is limited to the available context. `table`
  /// must outlive the request. Before the first start(), memory does not depend on prompt length or
  /// max_tokens.
  Request(RequestId id, SharedValue<std::vector<TokenId>> prompt,
          SharedValue<SamplingParams> params, std::uint64_t seed, const Limits& limits,
          const Vocabulary& table, std::int64_t submit_ns);

  QueueEntry queue_entry;
  AdmissionState admission;
  DraftState draft;
  ConstraintState constrained;
  RecoveryState recovery;
  DeliveryOptions delivery;

  /// Namespace of the cached prefixes it shares; none: it neither uses nor leaves cached data.
  std::optional<CacheNamespace> cache_space;

  RequestId id() const { return id_; }
  State state() const { return state_; }
  SeqId seq() const { return seq_; }
  Pos n_prompt() const { return n_prompt_; }
  Pos n_tokens() const { return static_cast<Pos>(tokens().size()); }
  Pos n_output() const { return n_tokens() - n_prompt_; }
  Pos kv_len() const { return kv_len_; }
  Pos n_pending() const { return n_tokens() - kv_len_; }
  /// Whether its next row computes its next output token.
  bool decodes() const { return n_pending() == 1 && n_output() > 0; }
  std::span<const TokenId> tokens() const {
    return sampler_ ? std::span<const TokenId>(tokens_) : std::span(*prompt_).first(n_prompt_);
  }
  /// Valid after the first start().
  const Sampler& sampler() const { return *sampler_; }

  /// Number of tokens that may be taken from the cache. Rows of later tokens must be computed for
  /// the next token or for log-probabilities of the prompt.
  Pos n_reusable() const { return scores() ? n_scored_ - 1 : n_tokens() - 1; }
  /// Whether log-probabilities of prompt tokens are still missing.
  bool scores() const { return n_scored_ < n_prompt_; }
  /// Rows of [begin, end) whose logits these need, as [first, last).
  std::pair<Pos, Pos> rows_to_score(Pos begin, Pos end) const;
  std::optional<std::int32_t> n_prompt_logprobs() const { return params_->prompt_logprobs; }
  std::optional<std::int32_t> n_logprobs() const { return params_->logprobs; }
  /// With max_tokens 0: the last prompt token. Its row is not computed; its log-probability comes
  /// from the logits of the row before it, as for a sampled token.
  std::optional<TokenId> forced() const { return forced_; }

  /// Most cells this request can use: all its tokens except the last output token, whose row is
  /// never computed.
  std::int32_t n_cells_needed() const { return n_prompt_ + max_tokens_ - 1; }

  std::int32_t max_tokens() const { return max_tokens_; }
  /// Lower bound of the number of output tokens, unless the request is cancelled.
  std::int32_t n_output_least() const { return n_output_least_; }

  /// Output tokens delivered in deltas.
  Pos n_shown() const { return n_shown_; }

  std::int32_t n_preempted() const { return timing_.n_preempted; }
  /// Tokens computed since the last start.
  Pos n_progress() const { return kv_len_ - started_at_; }
  /// Tokens below this position were in the cache before and were lost.
  Pos n_computed() const { return n_computed_; }

  /// Starts the request on `seq`, whose cache holds `kv_len` tokens.
  void start(SeqId seq, Pos kv_len, std::int64_t now_ns);

  /// Returns the request to the queue: the sequence is released, tokens and sampler are kept.
  void stop(std::int64_t now_ns);

  /// As stop(), for a preemption.
  void preempt(std::int64_t now_ns);

  /// Adds the time since the last call to this category, or to several in proportion to weights.
  void spend(TimeCategory kind, std::int64_t now_ns);
  void spend(std::initializer_list<std::pair<TimeCategory, double>> weights, std::int64_t now_ns);
  std::int64_t spent_until_ns() const { return spent_until_ns_; }

  /// Maximum number of draft tokens after the next token.
  std::int32_t n_guessable() const;

  /// The category of waiting time at present.
  TimeCategory waiting_kind() const;

  /// Without the queue position.
  RequestProgress progress(std::int64_t now_ns) const;

  /// Tokens up to `kv_len` were added to the cache without being computed for this request.
  void share(Pos kv_len);

  /// Tokens up to `kv_len` are in the cache; `sampled`, if not null, is the next output token.
  void commit_step(Pos kv_len, const TokenId* sampled) noexcept;

  /// Log-probabilities of the next prompt tokens, or of the next output token; belongs to the
  /// commit_step() of the same call.
  void commit_scores(std::vector<TokenLogprob>&& scores) noexcept;
  void commit_logprob(TokenLogprob&& logprob) noexcept;

  /// The cache lost this sequence: all its tokens are pending again.
  void forget_kv() noexcept {
    if (kv_len_ > n_computed_) n_computed_ = kv_len_;
    kv_len_ = started_at_ = 0;
  }

  /// Keeps the contents of a delta for the next one.
  void hold(Delta delta) { held_ = std::move(delta); }

  /// The result of commit_step() since the last call. The finish reason is set if the last token, a
  /// stop string or max_tokens ends the request.
  Delta take_delta(std::int64_t now_ns);

  /// The last delta, without new tokens. Contains the text that was held back.
  Delta finish(FinishReason reason, std::string error, std::int64_t now_ns);

 private:
  void prepare_output();
  Delta make_delta(std::int64_t now_ns);
  /// Number of prompt tokens as submitted.
  Pos n_given() const { return n_prompt_ + (forced_ ? 1 : 0); }
  void hand_out_prompt(Delta& delta);
  bool is_stop_token(TokenId token) const;
  /// The text that an output token adds.
  std::string_view output_piece(TokenId token) const;

  RequestId id_;
  SharedValue<std::vector<TokenId>> prompt_;
  SharedValue<SamplingParams> params_;
  std::uint64_t seed_;
  const Vocabulary& table_;
  std::optional<TokenId> forced_;
  State state_ = State::kWaiting;
  SeqId seq_ = kNoSeq;
  std::vector<TokenId> tokens_;     // set when the request is started
  std::optional<Sampler> sampler_;  // likewise
  Pos n_prompt_;
  Pos n_scored_;  // prompt tokens below this position need no log-probability
  Pos kv_len_ = 0;
  Pos started_at_ = 0;
  Pos n_computed_ = 0;
  Pos n_cached_ = 0;
  Pos n_shown_ = 0;                                       // output tokens delivered in deltas
  Delta held_;                                            // merged into the next delta
  std::vector<TokenLogprob> logprobs_, prompt_logprobs_;  // not yet delivered
  std::int32_t max_tokens_;
  std::int32_t n_output_least_;
  std::int32_t text_offset_ = 0;
  Detokenizer text_;
  Timing timing_;
  std::int64_t spent_until_ns_;
};

}  // namespace llamaherd

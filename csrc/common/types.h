#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/small_vector.h"

namespace llamaherd {

using TokenId = std::int32_t;
using Pos = std::int32_t;
/// A sequence id of the KV cache. Few exist and they are reused, unlike RequestIds.
using SeqId = std::int32_t;
/// Unique within an engine, never reused.
using RequestId = std::uint64_t;

/// Separates cached data that must not be shared even for equal tokens (salt, tenant).
using CacheNamespace = std::uint64_t;

inline constexpr SeqId kNoSeq = -1;
/// The end of a sequence, in a range of positions.
inline constexpr Pos kToEnd = -1;

/// Tokens that a request gains in one step: one, and the accepted draft tokens.
using StepTokens = SmallVector<TokenId, 16>;

enum class FinishReason {
  kStop,       // end-of-generation token, stop token or stop string
  kLength,     // max_tokens, or the end of the context
  kCancelled,  // by the caller, or because the engine was closed
  kDeadline,   // missed, or predicted to be missed
  kError,      // see Delta::error
};

/// A time that is never reached.
inline constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

/// Categories of a request's time.
enum class TimeCategory : std::uint8_t {
  kQueued,         // waiting for the first start
  kFollowing,      // waiting for a prefix that another request computes
  kPreempted,      // waiting after a preemption
  kPrefill,        // calls with its own prompt tokens
  kPrefillShared,  // loading tokens from lower cache tiers
  kPrefillAgain,   // calls that recompute lost tokens
  kDecode,         // calls with its decode row
  kOthersPrefill,  // prompt tokens of other requests while it decodes
  kOthersDecode,   // decode rows of other requests while its prompt is computed
  kSampling,
  kEngine,  // planning, delivery and other time between calls
};
inline constexpr std::size_t kSpentKinds = 11;

/// Nanoseconds by category. The sum is the time since submission.
using TimeBreakdown = std::array<std::int64_t, kSpentKinds>;

/// Timestamps of one request in nanoseconds of the steady clock; 0: not reached.
struct Timing {
  std::int64_t submit_ns = 0;
  std::int64_t start_ns = 0;        // admitted: first planned into a step
  std::int64_t first_token_ns = 0;  // first output token committed
  std::int64_t last_ns = 0;         // this delta was made
  std::int32_t n_preempted = 0;
  TimeBreakdown spent{};
};

/// What is known of a request that has not ended. Times as in Timing.
struct RequestProgress {
  std::int32_t n_prompt = 0;        // prompt tokens
  std::int32_t n_cached = 0;        // of these, not computed by this request
  std::int32_t n_computed = 0;      // of these, in the KV cache, including n_cached
  std::int32_t queue_position = 0;  // 1: expected to be admitted next; 0: it runs
  std::int32_t n_preempted = 0;
  std::int64_t start_ns = 0;
  std::int64_t time_ns = 0;  // when this was true
};

/// Log-probability of a token by the model, without penalties, biases, masks and temperature.
struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  std::int32_t rank = 1;                       // 1: the most likely; equal logits are ordered by id
  std::int32_t text_offset = 0;                // characters of the text before the token
  std::vector<std::pair<TokenId, float>> top;  // most likely tokens, descending

  bool operator==(const TokenLogprob&) const = default;
};

/// Result of one request in one step. Exactly one delta per request has a finish_reason: the last.
struct Delta {
  RequestId request_id = 0;
  StepTokens token_ids;
  std::string text;  // valid UTF-8; lags token_ids while a character or stop string is incomplete
  std::optional<FinishReason> finish_reason;
  std::string error;                          // set if finish_reason is kError
  std::int32_t n_prompt = 0;                  // prompt tokens
  std::int32_t n_cached = 0;                  // of these, not computed by this request
  std::int32_t n_completion = 0;              // output tokens so far, including this delta
  std::int32_t index = 0;                     // index among the outputs of one prompt
  std::vector<TokenLogprob> logprobs;         // one per token id, if requested
  std::vector<TokenLogprob> prompt_logprobs;  // in one delta, if requested
  Timing timing;
};

}  // namespace llamaherd

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
/// A sequence id of the KV cache: a scarce, reused number, unlike a RequestId.
using SeqId = std::int32_t;
/// Unique for the life of an engine, never reused.
using RequestId = std::uint64_t;

/// Separates what must not be shared though its tokens are the same: tenants now.
using CacheNamespace = std::uint64_t;

inline constexpr SeqId kNoSeq = -1;
/// As the end of a range of positions.
inline constexpr Pos kToEnd = -1;

/// What one request gains in one step: a token, and as many as were guessed behind it.
using StepTokens = SmallVector<TokenId, 16>;

enum class FinishReason {
  kStop,       // end-of-generation token, stop token or stop string
  kLength,     // max_tokens or the context's end
  kCancelled,  // by the caller, or because the engine was closed
  kDeadline,   // it has passed, or could no longer be kept
  kError,      // see Delta::error
};

/// A moment of the steady clock that never comes.
inline constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

/// What a request's time goes into.
enum class TimeCategory : std::uint8_t {
  kQueued,         // waiting to run for the first time
  kFollowing,      // waiting for a prefix that another request computes
  kPreempted,      // waiting to run again
  kPrefill,        // calls with its own prompt tokens
  kPrefillShared,  // tokens brought back from the cache's lower tiers
  kPrefillAgain,   // calls with tokens it had computed before and lost
  kDecode,         // calls for its next token, whoever else is in them
  kOthersPrefill,  // others' prompt tokens, in its steps
  kOthersDecode,   // others' next tokens, while its prompt is computed
  kSampling,
  kEngine,  // planning, delivery and all else between calls
};
inline constexpr std::size_t kSpentKinds = 11;

/// Nanoseconds by kind; they add up to the time since the request was submitted.
using TimeBreakdown = std::array<std::int64_t, kSpentKinds>;

/// Moments of one request's life in nanoseconds of the steady clock; 0 = not reached.
struct Timing {
  std::int64_t submit_ns = 0;
  std::int64_t start_ns = 0;        // admitted: first planned into a step
  std::int64_t first_token_ns = 0;  // first output token committed
  std::int64_t last_ns = 0;         // this delta made
  std::int32_t n_preempted = 0;
  TimeBreakdown spent{};
};

/// How likely a token was by the model itself: without penalties, biases, masks and temperature.
struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
  std::int32_t rank = 1;                       // 1: the likeliest; equals by id
  std::int32_t text_offset = 0;                // characters of the text that begin before it
  std::vector<std::pair<TokenId, float>> top;  // the likeliest tokens, best first

  bool operator==(const TokenLogprob&) const = default;
};

/// What one request gained in one step. Exactly one delta per request has a finish_reason, and it
/// is the last.
struct Delta {
  RequestId request_id = 0;
  StepTokens token_ids;
  std::string text;  // always valid UTF-8; lags token_ids while a character or stop string is open
  std::optional<FinishReason> finish_reason;
  std::string error;                          // set if finish_reason is kError
  std::int32_t n_prompt = 0;                  // prompt tokens
  std::int32_t n_cached = 0;                  // of these, not computed by this request
  std::int32_t n_completion = 0;              // output tokens so far, this delta's included
  std::int32_t index = 0;                     // among the requests made of one prompt
  std::vector<TokenLogprob> logprobs;         // one per token id, if asked for
  std::vector<TokenLogprob> prompt_logprobs;  // in one delta, if asked for
  Timing timing;
};

}  // namespace llamaherd

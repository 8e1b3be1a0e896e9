#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Result of sampling the rows of one planned request.
struct SampledOutput {
  std::optional<TokenId> token;         // none if no next token was needed
  StepTokens further;                   // tokens after it, each following an accepted draft token
  std::optional<TokenLogprob> logprob;  // of the token, if requested
  std::vector<TokenLogprob> scores;     // of prompt tokens
  bool poisoned = false;                // a logits row had a NaN or inf
  bool late = false;                    // the mask of the next token is not available yet
  std::string error = {};               // why the request has no next token
};

}  // namespace llamaherd

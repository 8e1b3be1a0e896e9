#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// What the logits of one planned request's rows came to.
struct SampledOutput {
  std::optional<TokenId> token;         // none if its next token was not wanted
  StepTokens further;                   // tokens behind it, the guess before each being right
  std::optional<TokenLogprob> logprob;  // of the token, if asked for
  std::vector<TokenLogprob> scores;     // of prompt tokens
  bool poisoned = false;                // a logits row had a NaN or inf
  bool late = false;                    // the mask of the next token is not there yet
  std::string error = {};               // why the request cannot have a next token
};

}  // namespace llamaherd

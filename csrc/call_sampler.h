#pragma once

#include <span>
#include <vector>

#include "backend.h"
#include "request.h"
#include "staged.h"
#include "step_plan.h"
#include "top_tokens.h"

namespace llamaherd {

/// Turns rows of logits into tokens and log-probabilities. Changes no request.
class CallSampler {
 public:
  /// The rows of one request of a call that was decoded.
  Staged sample(const PlannedRequest& item, Backend& backend);

  /// The request's next token by this row, which may be written.
  Staged sample(const Request& request, std::span<float> logits);

 private:
  bool score(const PlannedRequest& item, Backend& backend, std::vector<TokenLogprob>& scores);

  RowScratch scratch_;
};

}  // namespace llamaherd

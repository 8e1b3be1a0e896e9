#pragma once

#include <algorithm>

#include "request/request.h"
#include "scheduler/step_plan.h"

namespace llamaherd {

/// Adds the request's tokens up to `end` to the call. Stops earlier, perhaps before the first,
/// where the call would have more than max_scored_rows rows with logits for log-probabilities.
inline void add_rows(CallPlan& call, Request& request, Pos end, std::int32_t max_scored_rows) {
  const Pos begin = request.kv_len();
  auto [first, last] = request.rows_to_score(begin, end);
  const std::int32_t n_left = max_scored_rows - call.n_scored;
  if (last - first > n_left) end = last = first + n_left;
  if (begin >= end) return;
  call.add(&request, request.seq(), begin, end, end == request.n_tokens());
  call.score(first, last);
}

}  // namespace llamaherd

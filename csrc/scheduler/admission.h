#pragma once

#include <cstdint>
#include <span>

#include "cache/prefix_cache.h"
#include "cache/prompt_logits_cache.h"
#include "cost/cost_model.h"
#include "scheduler/request_queue.h"
#include "scheduler/running_set.h"

namespace llamaherd {

/// Determines what a queued request can reuse and what it needs to start. Writes the requests'
/// AdmissionState and raises priorities in the queue.
class Admission {
 public:
  struct Assessment {
    PrefixCache::Match match;
    std::span<const float> logits;  // set if the whole prompt is cached and these are known
    bool follows = false;           // waits for tokens that another request computes
    std::int32_t n_cells = 0;       // needed in addition to the reservations of others
  };

  /// `shares_at_cuts`: sequences can be shared only at positions where prefill stopped.
  Admission(const CostModel& model, PrefixCache& cache, PromptLogitsCache& logits,
            RequestQueue& queue, const RunningSet& running, bool shares_at_cuts)
      : model_(model),
        cache_(cache),
        logits_(logits),
        queue_(queue),
        running_(running),
        shares_at_cuts_(shares_at_cuts) {}

  /// What the request can reuse, or which request it should wait for.
  Assessment assess(Request& request, std::int64_t now_ns);

  /// The same without waiting for others and without known logits.
  Assessment assess_alone(const Request& request) const;

  PrefixCache::Match match_reusable(const Request& request) const;

  /// Latest start at which the request is predicted to keep its deadlines, at the present duration
  /// of steps.
  std::int64_t latest_start_ns(const Request& request, Pos n_have) const;

  /// Requests that waited for the prefill of another.
  std::int64_t n_followers() const { return n_followers_; }

 private:
  Assessment look_up(const Request& request) const;
  static Pos n_shareable(const Request& request, const Request& other);
  Request* leader_of(const Request& request, Pos n_have) const;
  bool still_leads(const AdmissionState::Following& following) const;
  void follow(Request& request, Request& leader, Pos n_have, std::int64_t now_ns);

  const CostModel& model_;
  PrefixCache& cache_;
  PromptLogitsCache& logits_;
  RequestQueue& queue_;
  const RunningSet& running_;
  bool shares_at_cuts_;
  std::int64_t n_followers_ = 0;
};

}  // namespace llamaherd

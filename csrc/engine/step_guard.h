#pragma once

#include <exception>
#include <span>
#include <utility>

#include "backend/backend.h"
#include "cache/prefix_cache.h"
#include "request/request.h"
#include "sampling/sampled_output.h"
#include "scheduler/step_plan.h"

namespace llamaherd {

/// Undoes the cache writes of one call unless they are committed: removes rows beyond each
/// request's committed length. Afterwards each request's length in the backend equals its committed
/// length. The caller publishes committed tokens. Random numbers need no rollback: see Sampler.
class StepGuard {
 public:
  StepGuard(const CallPlan& call, Backend& backend, PrefixCache& cache)
      : call_(call), backend_(backend), cache_(cache) {}
  StepGuard(const StepGuard&) = delete;
  StepGuard& operator=(const StepGuard&) = delete;

  ~StepGuard() {
    if (committed_) return;
    try {
      undo_all();
    } catch (const std::exception&) {
      // Another, fatal exception is being handled: the cache is not used again.
    }
  }

  /// `sampled` is parallel to the call's items. Poisoned items are undone, the others committed.
  /// Log-probabilities are moved from `sampled`.
  void commit_call(std::span<SampledOutput> sampled) {
    committed_ = true;
    for (std::size_t i = 0; i < sampled.size(); ++i) {
      if (sampled[i].poisoned) {
        undo(call_.items[i]);
      } else {
        commit_item(call_.items[i], sampled[i]);
      }
    }
  }

  static void commit_request(Request& request, Pos end, SampledOutput& sampled) noexcept {
    request.commit_step(end, sampled.token ? &*sampled.token : nullptr);
    for (const TokenId& token : sampled.further) request.commit_step(++end, &token);
    request.commit_scores(std::move(sampled.scores));
    if (sampled.logprob) request.commit_logprob(std::move(*sampled.logprob));
  }

  /// Sequences that were dropped completely because their memory cannot be trimmed.
  int n_dropped() const { return n_dropped_; }

  void undo_all() {
    committed_ = true;
    for (const PlannedRequest& item : call_.items) undo(item);
  }

 private:
  void commit_item(const PlannedRequest& item, SampledOutput& sampled) {
    const auto n_right = static_cast<std::int32_t>(sampled.further.size());
    Request& request = *item.request;
    if (item.n_drafted > 0) {
      request.draft.acceptance.observe(item.n_drafted, n_right);
    } else if (sampled.token && !request.draft.tokens.empty()) {
      request.draft.acceptance.observe(1, request.draft.tokens.front() == *sampled.token);
    }
    request.draft.tokens.clear();
    commit_request(request, item.end, sampled);
    if (n_right == item.n_drafted) return;
    backend_.remove(item.seq, item.end + n_right, kToEnd);
  }

  void undo(const PlannedRequest& item) {
    if (backend_.remove(item.seq, item.begin, kToEnd)) return;
    backend_.remove(item.seq, 0, kToEnd);
    cache_.drop(item.seq);
    item.request->forget_kv();
    ++n_dropped_;
  }

  const CallPlan& call_;
  Backend& backend_;
  PrefixCache& cache_;
  bool committed_ = false;
  int n_dropped_ = 0;
};

}  // namespace llamaherd

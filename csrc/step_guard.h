#pragma once

#include <exception>
#include <optional>
#include <span>

#include "backend.h"
#include "prefix_cache.h"
#include "request.h"
#include "step_plan.h"

namespace llamaherd {

/// What sampling made of one planned request.
struct Staged {
  std::optional<TokenId> token;  // none if no logits were wanted
  bool poisoned = false;         // its logits row had a NaN or inf
};

/// Undoes one call's own writes unless they are committed: rows beyond each request's committed
/// length leave the cache. Afterwards the length in the backend of each request of the call is what
/// is committed; publishing what was is left to the caller. Random numbers need no undoing: see
/// Sampler.
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
      // Another exception is under way and fatal: nothing will ask this cache again.
    }
  }

  /// `staged` stands beside the call's items. Poisoned ones are undone, the others committed.
  void commit(std::span<const Staged> staged) {
    committed_ = true;
    for (std::size_t i = 0; i < staged.size(); ++i) {
      const PlannedRequest& item = call_.items[i];
      if (staged[i].poisoned) {
        undo(item);
        continue;
      }
      item.request->commit_step(item.end, staged[i].token ? &*staged[i].token : nullptr);
    }
  }

  /// Sequences that were dropped whole, because their memory cannot be trimmed.
  int n_dropped() const { return n_dropped_; }

  void undo_all() {
    committed_ = true;
    for (const PlannedRequest& item : call_.items) undo(item);
  }

 private:
  void undo(const PlannedRequest& item) {
    if (backend_.apply({KvOp::Kind::kRemove, item.seq, item.begin, -1})) return;
    backend_.apply({KvOp::Kind::kRemove, item.seq, 0, -1});
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

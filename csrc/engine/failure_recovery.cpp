#include "engine/failure_recovery.h"

#include <algorithm>

#include "scheduler/plan_rows.h"

namespace llamaherd {
namespace {

// Failures alone after which a request ends with an error.
constexpr int kMaxStrikes = 2;

}  // namespace

bool FailureRecovery::execute(const CallPlan& call, std::vector<Delta>& out) {
  if (call.items.empty()) return true;
  const Outcome outcome = attempt(call, out);
  switch (outcome) {
    case Outcome::kOk:
      return true;
    case Outcome::kAborted:
      return false;  // all undone; the next step runs it again, without cancelled requests
    case Outcome::kPoisoned: {
      std::vector<Request*> suspects;
      for (std::size_t i = 0; i < call.items.size(); ++i) {
        if (executor_.is_poisoned(i)) suspects.push_back(call.items[i].request);
      }
      isolate_poison(suspects, out);
      return false;
    }
    default:
      return bisect(call, outcome, out);
  }
}

/// After a failure that loses the states of all sequences, all of them are recomputed.
CallOutcome FailureRecovery::attempt(const CallPlan& call, std::vector<Delta>& out) {
  const Outcome outcome = executor_.attempt(call, out);
  if (loses_all(outcome)) rebuild_cache();
  return outcome;
}

/// Splits a failed call until each failing part is a single request; those requests end.
bool FailureRecovery::bisect(const CallPlan& call, Outcome outcome, std::vector<Delta>& out) {
  const std::span<const PlannedRequest> items(call.items);
  const bool alone = items.size() == 1;
  if (alone && strike(*items[0].request, outcome, out)) return !loses_all(outcome);
  if (loses_all(outcome)) {
    std::vector<Request*> requests;
    for (const PlannedRequest& item : items) requests.push_back(item.request);
    run_each_alone(requests, out);
    return false;
  }
  if (alone) return retry_alone(*items[0].request, items[0].end, out);
  const std::size_t n_part = outcome == Outcome::kInvalidBatch ? 1 : (items.size() + 1) / 2;
  for (std::size_t i = 0; i < items.size(); i += n_part) {
    const CallPlan part = replan(items.subspan(i, std::min(n_part, items.size() - i)));
    if (!execute(part, out)) return false;
  }
  return true;
}

/// Counts a failure of a request that ran alone. Returns whether the request was ended for it.
bool FailureRecovery::strike(Request& request, Outcome outcome, std::vector<Delta>& out) {
  // An invalid batch fails every time.
  const bool is_permanent = outcome == Outcome::kInvalidBatch;
  if (!is_permanent && ++request.recovery.n_strikes < kMaxStrikes) return false;
  delivery_.end(request, FinishReason::kError, executor_.failure(), out);
  return true;
}

/// Runs a request alone until the failed tokens are committed or the request has ended. Returns as
/// execute() does.
bool FailureRecovery::retry_alone(Request& request, Pos end, std::vector<Delta>& out) {
  for (;;) {
    const Outcome outcome = run_alone(request, end, out);
    if (outcome == Outcome::kOk) return true;
    if (outcome == Outcome::kAborted) return false;
    if (outcome == Outcome::kPoisoned) {
      isolate_poison({&request}, out);
      return false;
    }
    if (strike(request, outcome, out)) return !loses_all(outcome);
    if (loses_all(outcome)) {
      run_each_alone({&request}, out);
      return false;
    }
  }
}

/// Replans the same requests from their present positions, as many as fit into one call. The next
/// step plans the rest.
CallPlan FailureRecovery::replan(std::span<const PlannedRequest> items) const {
  CallPlan call;
  for (const PlannedRequest& item : items) {
    if (item.request->seq() != item.seq) continue;
    const Pos begin = item.request->kv_len();
    const Pos end = std::min(item.end, begin + backend_.info().n_batch - call.n_rows);
    if (begin < end) add_rows(call, *item.request, end, backend_.info().max_scored_rows);
  }
  return call;
}

/// NaN values may originate in the request itself or in a neighbour that shares a tile with it, and
/// may be in cached data that other requests use. A single poisoned request is first retried alone
/// as it is. If that fails, or several requests are poisoned, the cache and its data are cleared
/// and each of them runs alone in the empty cache. A request that is poisoned even then is the
/// source and ends. If none is, the source may be a request that has not needed logits yet.
void FailureRecovery::isolate_poison(const std::vector<Request*>& poisoned,
                                     std::vector<Delta>& out) {
  if (poisoned.size() == 1) {
    Request& request = *poisoned[0];
    const Outcome outcome = run_alone(request, request.n_tokens(), out);
    if (outcome == Outcome::kOk || outcome == Outcome::kAborted) return;
  }
  std::vector<Request*> others;
  for (const auto& request : scheduler_.running()) {
    if (std::ranges::find(poisoned, request.get()) == poisoned.end()) {
      others.push_back(request.get());
    }
  }
  rebuild_cache();
  if (run_each_alone(poisoned, out)) run_each_alone(others, out);
}

/// After the cache was cleared, runs each of these requests alone until it has gained a token.
/// Those that fail or are poisoned end. The sequences of other requests are recomputed in later
/// steps. Returns false if a request was poisoned or the remaining ones must wait.
bool FailureRecovery::run_each_alone(const std::vector<Request*>& requests,
                                     std::vector<Delta>& out) {
  bool all_clean = true;
  for (Request* request : requests) {
    for (;;) {
      if (request->seq() == kNoSeq && !admit_now(*request)) break;  // it will be scheduled again
      const Outcome outcome = run_alone(*request, request->n_tokens(), out);
      if (outcome == Outcome::kOk) break;
      if (outcome == Outcome::kAborted) return false;
      if (outcome == Outcome::kPoisoned) {
        delivery_.end(*request, FinishReason::kError,
                      "its logits are not finite, also when computed alone", out);
        rebuild_cache();
        all_clean = false;
        break;
      }
      if (strike(*request, outcome, out)) break;
    }
  }
  return all_clean;
}

/// Runs one request alone until its tokens up to `end` are in the cache. If `end` is its last
/// token, the request may have ended and be destroyed when this returns kOk.
CallOutcome FailureRecovery::run_alone(Request& request, Pos end, std::vector<Delta>& out) {
  for (;;) {
    const PlannedRequest all{&request, request.seq(), request.kv_len(), end};
    const CallPlan call = replan({&all, 1});
    const Outcome outcome = attempt(call, out);
    if (outcome != Outcome::kOk || call.items[0].end == end) return outcome;
  }
}

bool FailureRecovery::admit_now(const Request& request) {
  const bool fits = scheduler_.admit_now(request.id(), clock_.now_ns(), operations_.pending());
  operations_.apply();
  return fits;
}

/// An interrupted call may leave recurrent states of any sequence inconsistent with llama.cpp's
/// positions. With cells that are written once, other sequences are unaffected.
bool FailureRecovery::loses_all(Outcome outcome) const {
  const bool stopped = outcome == Outcome::kAborted || outcome == Outcome::kFailed;
  return stopped && !backend_.info().partial_removal;
}

/// Returns all running requests to the queue; shared prefixes are recomputed once.
void FailureRecovery::rebuild_cache() {
  ++accounting_.counters().n_cache_rebuilds;
  backend_.clear();
  cache_.forget_all();
  prompt_logits_.clear();
  while (!scheduler_.running().empty()) {
    scheduler_.requeue(*scheduler_.running().back(), clock_.now_ns());
  }
}

}  // namespace llamaherd

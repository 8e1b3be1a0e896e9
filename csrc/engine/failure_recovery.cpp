#include "engine/failure_recovery.h"

#include <algorithm>

#include "scheduler/plan_rows.h"

namespace llamaherd {
namespace {

// A request may fail alone this often before it ends with an error.
constexpr int kMaxStrikes = 2;

}  // namespace

bool FailureRecovery::execute(const CallPlan& call, std::vector<Delta>& out) {
  if (call.items.empty()) return true;
  const Outcome outcome = attempt(call, out);
  switch (outcome) {
    case Outcome::kOk:
      return true;
    case Outcome::kAborted:
      return false;  // all undone; the next step runs it again, without those cancelled meanwhile
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

/// After a failure that loses the states of all sequences, all of them are computed again.
CallOutcome FailureRecovery::attempt(const CallPlan& call, std::vector<Delta>& out) {
  const Outcome outcome = executor_.attempt(call, out);
  if (loses_all(outcome)) rebuild_cache();
  return outcome;
}

/// Runs the parts of a failed call until only requests that fail alone are left; those end.
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

/// A request failed alone. Returns whether that was once too often and it has been ended.
bool FailureRecovery::strike(Request& request, Outcome outcome, std::vector<Delta>& out) {
  // Validation has no luck: refused alone is refused for ever.
  const bool hopeless = outcome == Outcome::kInvalidBatch;
  if (!hopeless && ++request.recovery.n_strikes < kMaxStrikes) return false;
  delivery_.end(request, FinishReason::kError, executor_.failure(), out);
  return true;
}

/// Runs a request alone until what failed is committed or the request has ended. Returns what
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

/// The same requests from where they stand now, as many as fit one call; the next step plans the
/// others.
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

/// A NaN may have come from the request's own values or, through cells it only shares a tile with,
/// from a neighbour's; and it may stand in the cache for others to meet. So: one poisoned request
/// is first tried again alone, as it stands. If that does not help, or there are several, the cache
/// is cleared with its data and each of them runs alone in the clean one. Who is poisoned even
/// there is the source and ends. If none is, it may be one that has asked for no logits yet.
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

/// Runs each of some requests alone until it gained a token, after everybody has lost the cache.
/// Those that fail or are poisoned even so end; what the others lose by it the next steps rebuild.
/// Returns false if one was poisoned, or the rest must wait.
bool FailureRecovery::run_each_alone(const std::vector<Request*>& requests,
                                     std::vector<Delta>& out) {
  bool all_clean = true;
  for (Request* request : requests) {
    for (;;) {
      if (request->seq() == kNoSeq && !admit_now(*request)) break;  // its turn comes again
      const Outcome outcome = run_alone(*request, request->n_tokens(), out);
      if (outcome == Outcome::kOk) break;
      if (outcome == Outcome::kAborted) return false;
      if (outcome == Outcome::kPoisoned) {
        delivery_.end(*request, FinishReason::kError,
                      "its logits are not finite, computed alone as well", out);
        rebuild_cache();
        all_clean = false;
        break;
      }
      if (strike(*request, outcome, out)) break;
    }
  }
  return all_clean;
}

/// Runs one request alone until tokens up to `end` are in the cache. With `end` the last token, it
/// may be gone when this returns kOk.
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

/// A call that stops half-way may leave any sequence's state, in the call or not, unmoved where
/// llama.cpp believes it moved; where cells are written once, it leaves others' as they are.
bool FailureRecovery::loses_all(Outcome outcome) const {
  const bool stopped = outcome == Outcome::kAborted || outcome == Outcome::kFailed;
  return stopped && !backend_.info().partial_removal;
}

/// All running requests are queued again; prefixes that they shared are computed once.
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

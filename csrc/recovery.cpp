// The part of Engine that runs when a call did not go well.

#include <algorithm>
#include <vector>

#include "engine.h"

namespace llamaherd {
namespace {

// A request may fail alone this often before it ends with an error.
constexpr int kMaxStrikes = 2;

}  // namespace

/// Runs a call and deals with its failure. Returns false if the rest of the step's plan no longer
/// fits the state and must be planned anew.
bool Engine::execute(const CallPlan& call, std::vector<Delta>& out) {
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
        if (staged_[i].poisoned) suspects.push_back(call.items[i].request);
      }
      isolate_poison(suspects, out);
      return false;
    }
    default:
      return bisect(call, outcome, out);
  }
}

/// Runs the parts of a failed call until only requests that fail alone are left; those end.
bool Engine::bisect(const CallPlan& call, Outcome outcome, std::vector<Delta>& out) {
  const std::span<const PlannedRequest> items(call.items);
  if (items.size() == 1) {
    return strike(*items[0].request, outcome, out) || retry_alone(*items[0].request, out);
  }
  // Sequences that were dropped whole start over: a part of the call would end before what failed.
  const bool started_over = std::ranges::any_of(
      items, [](const PlannedRequest& item) { return item.request->kv_len() < item.begin; });
  if (started_over) {
    return std::ranges::all_of(
        items, [&](const PlannedRequest& item) { return retry_alone(*item.request, out); });
  }
  const std::size_t n_part = outcome == Outcome::kInvalidBatch ? 1 : (items.size() + 1) / 2;
  for (std::size_t i = 0; i < items.size(); i += n_part) {
    const CallPlan part = replan(items.subspan(i, std::min(n_part, items.size() - i)));
    if (!execute(part, out)) return false;
  }
  return true;
}

/// A request failed alone. Returns whether that was once too often and it has been ended.
bool Engine::strike(Request& request, Outcome outcome, std::vector<Delta>& out) {
  // Validation has no luck: refused alone is refused for ever.
  const bool hopeless = outcome == Outcome::kInvalidBatch;
  if (!hopeless && ++request.n_strikes < kMaxStrikes) return false;
  end(request, FinishReason::kError, failure_, out);
  return true;
}

/// Runs a request alone until it gained a token or ended. Returns what execute() does.
bool Engine::retry_alone(Request& request, std::vector<Delta>& out) {
  for (;;) {
    const Outcome outcome = run_alone(request, out);
    if (outcome == Outcome::kOk) return true;
    if (outcome == Outcome::kAborted) return false;
    if (outcome == Outcome::kPoisoned) {
      isolate_poison({&request}, out);
      return false;
    }
    if (strike(request, outcome, out)) return true;
  }
}

/// The same requests from where they stand now: a sequence that had to be dropped starts over.
/// Leaves out those that no longer fit one call; the next step plans them.
CallPlan Engine::replan(std::span<const PlannedRequest> items) const {
  CallPlan call;
  for (const PlannedRequest& item : items) {
    if (item.request->seq() != item.seq) continue;
    const Pos begin = item.request->kv_len();
    const Pos end = std::min(item.end, begin + backend_.info().n_batch - call.n_rows);
    if (begin >= end) continue;
    call.add(item.request, item.seq, begin, end, end == item.request->n_tokens());
  }
  return call;
}

/// A NaN may have come from the request's own values or, through cells it only shares a tile with,
/// from a neighbour's; and it may stand in the cache for others to meet. So: one poisoned request
/// is first tried again alone, as it stands. If that does not help, or there are several, the cache
/// is cleared with its data and each of them runs alone in the clean one. Who is poisoned even
/// there is the source and ends; the others' caches are rebuilt from their tokens by the next
/// steps.
void Engine::isolate_poison(const std::vector<Request*>& suspects, std::vector<Delta>& out) {
  if (suspects.size() == 1) {
    const Outcome outcome = run_alone(*suspects[0], out);
    if (outcome == Outcome::kOk || outcome == Outcome::kAborted) return;
  }
  rebuild_cache();
  for (Request* suspect : suspects) {
    const bool fits = scheduler_.admit_now(suspect->id(), now_ns(), ops_);
    apply(ops_);
    if (!fits) continue;  // its turn comes again
    const Outcome outcome = run_alone(*suspect, out);
    if (outcome == Outcome::kOk) continue;
    if (outcome == Outcome::kAborted) return;
    const bool poisoned = outcome == Outcome::kPoisoned;
    end(*suspect, FinishReason::kError,
        poisoned ? "its logits are not finite, computed alone as well" : failure_, out);
    if (poisoned) rebuild_cache();
  }
}

/// Runs one request until it gained a token. It may be gone when this returns kOk.
Engine::Outcome Engine::run_alone(Request& request, std::vector<Delta>& out) {
  for (;;) {
    const PlannedRequest all{&request, request.seq(), request.kv_len(), request.n_tokens()};
    const CallPlan call = replan({&all, 1});
    const Outcome outcome = attempt(call, out);
    if (outcome != Outcome::kOk || call.items[0].logits_row >= 0) return outcome;
  }
}

/// Everybody who runs waits again: what they shared is computed once again as well.
void Engine::rebuild_cache() {
  ++metrics_.n_cache_rebuilds;
  backend_.clear();
  cache_->forget_all();
  logits_.clear();
  while (!scheduler_.running().empty()) {
    scheduler_.requeue(*scheduler_.running().back(), now_ns());
  }
}

}  // namespace llamaherd

#include "scheduler/scheduler.h"

#include <algorithm>
#include <cstddef>
#include <tuple>
#include <utility>

#include "scheduler/plan_rows.h"
#include "speculation/prompt_lookup.h"

namespace llamaherd {
namespace {

// Requests that do not fit and are skipped in one step, and later requests that may be admitted
// before a skipped one.
constexpr std::size_t kMaxBlocked = 8;
constexpr std::int32_t kMaxPassed = 16;

}  // namespace

void Scheduler::submit(std::unique_ptr<Request> request, std::int64_t now_ns) {
  request->queue_entry.latest_start_ns = admission_.latest_start_ns(*request, 0);
  queue_.push(std::move(request), now_ns);
}

StepPlan& Scheduler::prepare_step(std::int64_t now_ns) {
  plan_.clear();
  passed_.clear();
  preemption_.make_room_to_grow(now_ns, plan_.kv_ops, passed_);
  admit(now_ns);
  pack();
  return plan_;
}

/// Admits queued requests in order. A request that waits for another's prefill keeps its place:
/// room for it is reserved.
void Scheduler::admit(std::int64_t now_ns) {
  queue_.age(now_ns);
  blocked_.clear();
  Room reserved;
  while (Request* request = queue_.first_but(passed_)) {
    if (budget_.room(reserved).n_seqs <= 0 && !could_start(*request)) return;
    Admission::Assessment admission = admission_.assess(*request, now_ns);
    if (!budget_.room(reserved).has(admission.n_cells) &&
        preemption_.make_way(*request, admission.n_cells, reserved, now_ns, plan_.kv_ops,
                             passed_)) {
      admission = admission_.assess(*request, now_ns);
    }
    if (!budget_.room(reserved).has(admission.n_cells)) {
      passed_.push_back(request);
      blocked_.push_back(request);
      if (request->queue_entry.n_passed >= kMaxPassed || blocked_.size() == kMaxBlocked) return;
    } else if (admission.follows) {
      passed_.push_back(request);
      ++reserved.n_seqs;
      reserved.n_cells += admission.n_cells;
    } else if (admission_.latest_start_ns(*request, admission.match.n_held) < now_ns) {
      // Too late: the next step finds it overdue.
      queue_.set_latest_start(*request, now_ns);
      passed_.push_back(request);
    } else {
      start(*request, admission, now_ns, plan_.kv_ops);
      for (Request* blocked : blocked_) ++blocked->queue_entry.n_passed;
    }
  }
}

/// Whether a running request of a lower class could be preempted for it.
bool Scheduler::could_start(const Request& request) const {
  return std::ranges::any_of(running_, [&request](const auto& other) {
    return other->queue_entry.key.priority > request.queue_entry.key.priority;
  });
}

void Scheduler::start(Request& request, const Admission::Assessment& admission, std::int64_t now_ns,
                      std::vector<KvOp>& ops) {
  running_.add(queue_.take(request.id()));
  const SeqId seq = pool_.acquire();
  const Pos n_held = admission.match.n_held;
  Pos waited_from = n_held;
  if (request.admission.following) {
    follower_wait_ns_ += now_ns - request.admission.following->since_ns;
    waited_from = request.admission.following->n_had;
  }
  if (request.cache_space) n_looked_up_ += request.n_tokens();
  cache_.attach(seq, request.cache_space, request.tokens().first(n_held), waited_from, ops);
  request.start(seq, n_held, now_ns);
  request.queue_entry.n_passed = 0;
  request.admission.n_restorable = admission.match.n_restorable;
  if (admission.match.divergence_pos > 0)
    request.admission.cuts.insert(admission.match.divergence_pos);
  if (!admission.logits.empty()) plan_.known_starts.push_back({&request, admission.logits});
  queue_.charge(request, request.n_cells_needed() - n_held);
}

bool Scheduler::admit_now(RequestId id, std::int64_t now_ns, std::vector<KvOp>& ops) {
  Request* request = queue_.find(id);
  if (request == nullptr) return false;
  const Admission::Assessment admission = admission_.assess_alone(*request);
  if (!budget_.room().has(admission.n_cells)) return false;
  plan_.clear();
  start(*request, admission, now_ns, ops);
  return true;
}

void Scheduler::requeue(Request& request, std::int64_t now_ns) {
  std::unique_ptr<Request> owned = preemption_.take(request);
  pool_.release(request.seq());
  request.stop(now_ns);
  queue_.push(std::move(owned), now_ns);
}

Request* Scheduler::find(RequestId id) {
  Request* request = running_.find(id);
  return request != nullptr ? request : queue_.find(id);
}

std::unique_ptr<Request> Scheduler::take(Request& request) {
  return request.seq() == kNoSeq ? queue_.take(request.id()) : preemption_.take(request);
}

Request* Scheduler::overdue(std::int64_t now_ns) {
  for (const auto& r : running_) {
    if (now_ns >= r->queue_entry.key.deadline_ns) return r.get();
    if (r->n_output() == 0 && now_ns >= r->queue_entry.key.ttft_deadline_ns) return r.get();
  }
  while (Request* request = queue_.overdue(now_ns)) {
    const std::int64_t latest_ns =
        admission_.latest_start_ns(*request, admission_.match_reusable(*request).n_held);
    if (latest_ns <= now_ns) return request;
    queue_.set_latest_start(*request, latest_ns);
  }
  return nullptr;
}

void Scheduler::pack() {
  ++n_steps_;
  packable_.clear();
  for (const auto& request : running_) {
    if (request->n_pending() > 1) {
      // Other requests may have computed or restored more of its prefix since it was admitted.
      const auto reusable = request->tokens().first(request->n_reusable());
      request->share(cache_.advance(request->seq(), reusable, plan_.kv_ops));
    }
    if (request->n_pending() == 0) continue;  // starts with known logits
    if (request->admission.n_restorable > request->kv_len()) {
      plan_.restores.push_back(request.get());
      continue;
    }
    packable_.push_back(request.get());
    plan_.any_decode |= request->n_pending() == 1;
  }
  std::ranges::sort(packable_, {}, [](const Request* r) {
    return std::tuple(r->queue_entry.key.priority, r->queue_entry.key.deadline_ns, r->id());
  });
  candidates_.clear();
  for (const Request* r : packable_) {
    candidates_.push_back({r->n_pending(), r->kv_len(), r->admission.last_missed_step});
  }
  has_rows_.assign(packable_.size(), false);
  const QueueState load{static_cast<std::int32_t>(queue_.size()), cache_.n_cells_used()};
  for (const PackedCall& packed : packer_.pack(candidates_, load, model_)) {
    CallPlan& call = plan_.calls.add();
    call.n_pad = packed.n_pad;
    for (const PackedCall::Item& item : packed.items) {
      add(call, *packable_[item.candidate], item.n_rows);
      has_rows_[item.candidate] = true;
    }
    draft(call);
  }
  for (std::size_t i = 0; i < packable_.size(); ++i) {
    if (!has_rows_[i] && packable_[i]->n_pending() == 1)
      packable_[i]->admission.last_missed_step = n_steps_;
  }
}

/// Adds rows of draft tokens to a call of decode rows only.
void Scheduler::draft(CallPlan& call) {
  if (!options_.may_draft || !model_.measured()) return;
  ShapeSum sum;
  draft_candidates_.clear();
  std::size_t n_guessed = 0;
  for (const PlannedRequest& item : call.items) {
    Request& request = *item.request;
    if (!request.decodes()) return;
    propose_ngram(request.tokens(), request.n_guessable(), request.draft.tokens);
    draft_candidates_.push_back({static_cast<std::int32_t>(request.draft.tokens.size()),
                                 request.draft.acceptance.acceptance(), item.begin});
    n_guessed += request.draft.tokens.size();
    sum.add(item.begin, 1);
  }
  if (n_guessed == 0) return;
  const std::int32_t n_most = std::min({options_.packing.max_call_rows - call.n_rows,
                                        options_.max_scored_rows, budget_.room().n_cells});
  const auto n = drafter_.choose(draft_candidates_, sum, cache_.n_cells_used(), n_most, model_);
  if (n.empty()) return;
  call.n_pad = 0;
  call.draft(n);
}

/// Adds the next n tokens of the request, limited by cuts and by max_scored_rows.
void Scheduler::add(CallPlan& call, Request& request, std::int32_t n) const {
  const auto cut = request.admission.cuts.upper_bound(request.kv_len());
  if (cut != request.admission.cuts.end()) n = std::min(n, *cut - request.kv_len());
  add_rows(call, request, request.kv_len() + n, options_.max_scored_rows);
}

}  // namespace llamaherd

#include "scheduler/scheduler.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "scheduler/plan_rows.h"
#include "speculation/prompt_lookup.h"

namespace llamaherd {

StepPlan& Scheduler::plan_step(std::int64_t now_ns) {
  plan_.clear();
  passed_.clear();
  make_room_to_grow(now_ns);
  admit(now_ns);
  pack();
  return plan_;
}

std::int32_t Scheduler::n_promised(const Request& request) {
  const std::int32_t n_left = request.n_cells_needed() - request.n_tokens();
  return request.n_pending() + headroom(n_left, request.n_preempted());
}

std::int32_t Scheduler::n_cells_promised() const {
  std::int32_t n = 0;
  for (const auto& request : running_) n += n_promised(*request);
  return n;
}

Scheduler::Room Scheduler::room(const Room& reserved) const {
  return {pool_.n_free() - reserved.n_seqs,
          options_.n_cells - cache_.n_cells_needed() - n_cells_promised() - reserved.n_cells};
}

/// Preempts until what is pending of those who run fits.
void Scheduler::make_room_to_grow(std::int64_t now_ns) {
  const auto lacks_cells = [this] {
    std::int32_t n_pending = 0;
    for (const auto& request : running_) n_pending += request->n_pending();
    return n_pending > options_.n_cells - cache_.n_cells_needed();
  };
  while (running_.size() > 1 && lacks_cells()) {
    constexpr auto kAnyClass = std::numeric_limits<std::int32_t>::min();
    Request* request = victim(kAnyClass, false);
    preempt(request != nullptr ? *request : *victim(kAnyClass, true), now_ns);
  }
}

/// Preempts requests of lower classes for this one, if that makes it fit.
bool Scheduler::make_way(const Request& request, const Admission& admission, const Room& reserved,
                         std::int64_t now_ns) {
  Room most = room(reserved);
  for (const auto& other : running_) {
    if (other->queue_entry.key.priority <= request.queue_entry.key.priority) continue;
    if (!may_be_preempted(other->n_preempted(), other->n_progress())) continue;
    ++most.n_seqs;
    most.n_cells += other->kv_len() + n_promised(*other);
  }
  if (!fits(admission, most)) return false;
  while (!fits(admission, room(reserved))) {
    Request* other = victim(request.queue_entry.key.priority, false);
    if (other == nullptr) return false;
    preempt(*other, now_ns);
  }
  return true;
}

/// Of the running requests of higher numbers than this priority, who gives way; nullptr: nobody.
Request* Scheduler::victim(std::int32_t above_priority, bool whoever) {
  runners_.clear();
  runner_requests_.clear();
  for (const auto& r : running_) {
    if (r->queue_entry.key.priority <= above_priority) continue;
    runners_.push_back({r->id(), r->queue_entry.key.priority, r->n_preempted(), r->n_progress()});
    runner_requests_.push_back(r.get());
  }
  const auto chosen = choose_victim(runners_, whoever);
  return chosen ? runner_requests_[*chosen] : nullptr;
}

void Scheduler::preempt(Request& request, std::int64_t now_ns) {
  std::unique_ptr<Request> owned = take_running(request);
  pool_.release(request.seq());
  cache_.release(request.seq(), request.tokens(), plan_.kv_ops);
  request.preempt(now_ns);
  passed_.push_back(&request);
  queue_.push(std::move(owned), now_ns);
  ++n_preempted_;
}

void Scheduler::requeue(Request& request, std::int64_t now_ns) {
  std::unique_ptr<Request> owned = take_running(request);
  pool_.release(request.seq());
  request.stop(now_ns);
  queue_.push(std::move(owned), now_ns);
}

Request* Scheduler::find(RequestId id) {
  for (const auto& request : running_) {
    if (request->id() == id) return request.get();
  }
  return queue_.find(id);
}

std::unique_ptr<Request> Scheduler::take(Request& request) {
  return request.seq() == kNoSeq ? queue_.take(request.id()) : take_running(request);
}

std::unique_ptr<Request> Scheduler::take_running(Request& request) {
  const auto it = std::ranges::find(running_, &request, &std::unique_ptr<Request>::get);
  std::unique_ptr<Request> taken = std::move(*it);
  running_.erase(it);
  queue_.settle(request, request.n_progress());
  return taken;
}

Request* Scheduler::overdue(std::int64_t now_ns) {
  for (const auto& r : running_) {
    if (now_ns >= r->queue_entry.key.deadline_ns) return r.get();
    if (r->n_output() == 0 && now_ns >= r->queue_entry.key.ttft_deadline_ns) return r.get();
  }
  while (Request* request = queue_.overdue(now_ns)) {
    const std::int64_t latest_ns = latest_start_ns(*request, match_reusable(*request).n_held);
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
      // Others may have computed, or brought back, more of it since it was admitted.
      const auto reusable = request->tokens().first(request->n_reusable());
      request->share(cache_.advance(request->seq(), reusable, plan_.kv_ops));
    }
    if (request->n_pending() == 0) continue;  // a known start
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

/// Rows for what may come behind the next tokens, in calls that are for next tokens alone.
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
  const std::int32_t n_most = std::min(
      {options_.packing.n_batch - call.n_rows, options_.max_scored_rows, room({}).n_cells});
  const auto n = drafter_.choose(draft_candidates_, sum, cache_.n_cells_used(), n_most, model_);
  if (n.empty()) return;
  call.n_pad = 0;
  call.draft(n);
}

/// The next n tokens of the request, or as many as there are before a cut, or may want logits.
void Scheduler::add(CallPlan& call, Request& request, std::int32_t n) const {
  const auto cut = request.admission.cuts.upper_bound(request.kv_len());
  if (cut != request.admission.cuts.end()) n = std::min(n, *cut - request.kv_len());
  add_rows(call, request, request.kv_len() + n, options_.max_scored_rows);
}

}  // namespace llamaherd

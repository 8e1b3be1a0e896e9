#include "scheduler.h"

#include <algorithm>
#include <utility>

#include "common_length.h"
#include "in_flight.h"

namespace llamaherd {
namespace {

bool has_lower_id(const std::unique_ptr<Request>& request, RequestId id) {
  return request->id() < id;
}

}  // namespace

StepPlan& Scheduler::plan_step(std::int64_t now_ns) {
  plan_.clear();
  admit(now_ns);
  pack();
  return plan_;
}

std::int32_t Scheduler::n_cells_promised() const {
  std::int32_t n = 0;
  for (const auto& request : running_) n += request->n_cells_needed() - request->kv_len();
  return n;
}

Scheduler::Room Scheduler::room() const {
  return {pool_.n_free(), options_.n_cells - cache_.n_cells_needed() - n_cells_promised()};
}

/// Goes through the queue until somebody does not fit. Who waits for another's prefill keeps its
/// place: what it will need is not given to those behind.
void Scheduler::admit(std::int64_t now_ns) {
  Room left = room();
  for (std::size_t i = 0; i < waiting_.size();) {
    Admission admission;
    switch (decide(*waiting_[i], left, admission, now_ns)) {
      case Decision::kBlocked:
        return;
      case Decision::kFollow:
        ++i;
        break;
      case Decision::kAdmit:
        start(waiting_.begin() + static_cast<std::ptrdiff_t>(i), admission, now_ns, plan_);
        break;
    }
  }
}

/// Takes what the request needs out of `room` unless it is blocked.
Scheduler::Decision Scheduler::decide(Request& request, Room& room, Admission& admission,
                                      std::int64_t now_ns) {
  if (room.n_seqs == 0) return Decision::kBlocked;
  std::optional<Request::Following>& following = request.following;
  bool follows = following && still_leads(*following);
  if (!follows) {
    admission = look_up(request);
    const Pos n_have = admission.match.n_stored;
    if (Request* leader = leader_of(request, n_have)) {
      follows = true;
      if (!following) {
        following = {leader->id(), 0, n_have, now_ns};
        ++n_followers_;
      }
      following->leader = leader->id();
      following->until = common_length(request.tokens(), leader->tokens());
      if (options_.shares_at_cuts) leader->cuts.insert(following->until);
    }
  }
  // Of what a leader computes nothing will be needed a second time.
  const std::int32_t n_cells =
      request.n_cells_needed() -
      (follows ? following->until : admission.match.n_held - admission.match.n_newly_needed);
  if (n_cells > room.n_cells) return Decision::kBlocked;
  --room.n_seqs;
  room.n_cells -= n_cells;
  return follows ? Decision::kFollow : Decision::kAdmit;
}

Scheduler::Admission Scheduler::look_up(const Request& request) {
  if (request.cache_space && request.n_output() == 0) {
    const auto logits = logits_.find(*request.cache_space, request.tokens());
    if (!logits.empty()) {
      const PrefixCache::Match whole = cache_.match(*request.cache_space, request.tokens());
      if (whole.n_held == request.n_tokens()) return {whole, logits};
    }
  }
  return {match_all_but_last(request), {}};
}

/// The last token is computed: its logits are wanted.
PrefixCache::Match Scheduler::match_all_but_last(const Request& request) const {
  if (!request.cache_space) return {};
  return cache_.match(*request.cache_space, request.tokens().first(request.n_tokens() - 1));
}

bool Scheduler::still_leads(const Request::Following& following) {
  return std::ranges::any_of(running_, [&](const auto& r) {
    return r->id() == following.leader && r->kv_len() < following.until;
  });
}

/// Who is computing most of what the request still lacks, if waiting for it pays.
Request* Scheduler::leader_of(const Request& request, Pos n_have) {
  if (!request.cache_space) return nullptr;
  Request* best = nullptr;
  Lead lead{n_have, n_have, 0, 0};
  for (const auto& other : running_) {
    if (other->n_pending() <= 1) continue;
    lead.n_ahead += other->n_pending();
    if (other->cache_space != request.cache_space) continue;
    const Pos n_common = common_length(request.tokens(), other->tokens());
    if (n_common <= std::max(lead.n_common, other->kv_len())) continue;
    best = other.get();
    lead.n_common = n_common;
    lead.n_leader = other->kv_len();
  }
  return best != nullptr && worth_waiting(lead, model_.costs()) ? best : nullptr;
}

void Scheduler::start(Queue::iterator it, const Admission& admission, std::int64_t now_ns,
                      StepPlan& plan) {
  std::unique_ptr<Request> request = std::move(*it);
  waiting_.erase(it);
  const SeqId seq = pool_.acquire();
  const Pos n_held = admission.match.n_held;
  Pos waited_from = n_held;
  if (const auto following = std::exchange(request->following, {})) {
    follower_wait_ns_ += now_ns - following->since_ns;
    waited_from = following->n_had;
  }
  if (request->cache_space) n_looked_up_ += request->n_tokens();
  cache_.attach(seq, request->cache_space, request->tokens().first(n_held), waited_from,
                plan.kv_ops);
  request->start(seq, n_held, now_ns);
  request->n_restorable = admission.match.n_stored;
  if (admission.match.n_seen > 0) request->cuts.insert(admission.match.n_seen);
  if (!admission.logits.empty()) plan.known_starts.push_back({request.get(), admission.logits});
  running_.push_back(std::move(request));
}

bool Scheduler::admit_now(RequestId id, std::int64_t now_ns, std::vector<KvOp>& ops) {
  const auto it = std::lower_bound(waiting_.begin(), waiting_.end(), id, has_lower_id);
  if (it == waiting_.end() || (*it)->id() != id) return false;
  const Room left = room();
  const Admission admission{match_all_but_last(**it), {}};
  const std::int32_t n_cells =
      (*it)->n_cells_needed() - admission.match.n_held + admission.match.n_newly_needed;
  if (left.n_seqs == 0 || n_cells > left.n_cells) return false;
  plan_.clear();
  start(it, admission, now_ns, plan_);
  ops.insert(ops.end(), plan_.kv_ops.begin(), plan_.kv_ops.end());
  return true;
}

void Scheduler::requeue(Request& request) {
  pool_.release(request.seq());
  request.stop();
  std::unique_ptr<Request> owned = take(request);
  waiting_.insert(std::lower_bound(waiting_.begin(), waiting_.end(), owned->id(), has_lower_id),
                  std::move(owned));
}

void Scheduler::pack() {
  packable_.clear();
  candidates_.clear();
  for (const auto& request : running_) {
    if (request->n_pending() > 1) {
      // Others may have computed, or brought back, more of it since it was admitted.
      const auto tokens = request->tokens();
      request->share(cache_.advance(request->seq(), tokens.first(tokens.size() - 1), plan_.kv_ops));
    }
    if (request->n_pending() == 0) continue;  // a known start
    if (request->n_restorable > request->kv_len()) {
      plan_.restores.push_back(request.get());
      continue;
    }
    packable_.push_back(request.get());
    candidates_.push_back({request->n_pending(), request->kv_len()});
    plan_.any_decode |= request->n_pending() == 1;
  }
  const Load load{static_cast<std::int32_t>(waiting_.size()), cache_.n_cells_used()};
  for (const PackedCall& packed : packer_.pack(candidates_, load, model_)) {
    CallPlan& call = plan_.calls.emplace_back();
    call.n_pad = packed.n_pad;
    for (const PackedCall::Item& item : packed.items) {
      add(call, *packable_[item.candidate], item.n_rows);
    }
  }
}

/// The next n tokens of the request, or as many as there are before a cut.
void Scheduler::add(CallPlan& call, Request& request, std::int32_t n) {
  const auto cut = request.cuts.upper_bound(request.kv_len());
  if (cut != request.cuts.end()) n = std::min(n, *cut - request.kv_len());
  call.add(&request, request.seq(), request.kv_len(), request.kv_len() + n,
           n == request.n_pending());
}

Request* Scheduler::find(RequestId id) {
  for (const auto& request : running_) {
    if (request->id() == id) return request.get();
  }
  const auto it = std::lower_bound(waiting_.begin(), waiting_.end(), id, has_lower_id);
  return it != waiting_.end() && (*it)->id() == id ? it->get() : nullptr;
}

std::unique_ptr<Request> Scheduler::take(const Request& request) {
  const auto is_it = [&request](const auto& owned) { return owned.get() == &request; };
  const auto take_from = [&is_it](auto& owners) {
    const auto it = std::ranges::find_if(owners, is_it);
    if (it == owners.end()) return std::unique_ptr<Request>();
    std::unique_ptr<Request> taken = std::move(*it);
    owners.erase(it);
    return taken;
  };
  std::unique_ptr<Request> taken = take_from(running_);
  return taken ? std::move(taken) : take_from(waiting_);
}

}  // namespace llamaherd

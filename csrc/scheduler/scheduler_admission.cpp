// The part of Scheduler that decides who starts.

#include <algorithm>
#include <utility>

#include "common/common_prefix.h"
#include "scheduler/prefill_sharing.h"
#include "scheduler/scheduler.h"

namespace llamaherd {
namespace {

// So many requests that do not fit are looked past for one that does, and so many requests may
// overtake one of them before nobody may any more.
constexpr std::size_t kMaxBlocked = 8;
constexpr std::int32_t kMaxPassed = 16;

}  // namespace

void Scheduler::submit(std::unique_ptr<Request> request, std::int64_t now_ns) {
  request->queue_entry.latest_start_ns = latest_start_ns(*request, 0);
  queue_.push(std::move(request), now_ns);
}

/// When the request must have started to keep its deadlines, if steps go on as they do now.
std::int64_t Scheduler::latest_start_ns(const Request& request, Pos n_have) const {
  const SchedulingKey& turn = request.queue_entry.key;
  if (turn.deadline_ns == kNever && turn.ttft_deadline_ns == kNever) return kNever;
  if (!model_.measured()) return std::min(turn.deadline_ns, turn.ttft_deadline_ns);
  const auto n_beside = static_cast<std::int32_t>(running_.size());
  double step_ns = model_.call_ns({n_beside + 1});
  if (n_beside > 0) step_ns = std::max(step_ns, model_.mean_step_ns());
  double prefill_ns = (request.n_tokens() - n_have) * model_.costs().prefill_token_ns;
  const std::int32_t n_left = std::max(request.n_output_least() - request.n_output() - 1, 0);
  const auto before = [](std::int64_t deadline_ns, double ns) {
    return deadline_ns == kNever ? kNever : deadline_ns - static_cast<std::int64_t>(ns);
  };
  const std::int64_t ttft_ns = request.n_output() == 0 ? turn.ttft_deadline_ns : kNever;
  return std::min(before(ttft_ns, prefill_ns),
                  before(turn.deadline_ns, prefill_ns + n_left * step_ns));
}

/// Goes through the queue in order. Who waits for another's prefill keeps its place: what it will
/// need is not given to those behind.
void Scheduler::admit(std::int64_t now_ns) {
  queue_.age(now_ns);
  blocked_.clear();
  Room reserved;
  while (Request* request = queue_.first_but(passed_)) {
    if (room(reserved).n_seqs <= 0 && !could_start(*request)) return;
    Admission admission = assess(*request, now_ns);
    if (!fits(admission, room(reserved)) && make_way(*request, admission, reserved, now_ns)) {
      admission = assess(*request, now_ns);
    }
    if (!fits(admission, room(reserved))) {
      passed_.push_back(request);
      blocked_.push_back(request);
      if (request->queue_entry.n_passed >= kMaxPassed || blocked_.size() == kMaxBlocked) return;
    } else if (admission.follows) {
      passed_.push_back(request);
      ++reserved.n_seqs;
      reserved.n_cells += admission.n_cells;
    } else if (latest_start_ns(*request, admission.match.n_held) < now_ns) {
      // Too late by now: the next step finds it overdue.
      queue_.set_latest_start(*request, now_ns);
      passed_.push_back(request);
    } else {
      start(*request, admission, now_ns, plan_.kv_ops);
      for (Request* blocked : blocked_) ++blocked->queue_entry.n_passed;
    }
  }
}

/// Whether somebody would have to make way for it, if all ids are in use.
bool Scheduler::could_start(const Request& request) const {
  return std::ranges::any_of(running_, [&request](const auto& other) {
    return other->queue_entry.key.priority > request.queue_entry.key.priority;
  });
}

bool Scheduler::fits(const Admission& admission, const Room& room) {
  return room.n_seqs > 0 && admission.n_cells <= room.n_cells;
}

/// What the request would begin with, or whom it should wait for, and what it would need.
Scheduler::Admission Scheduler::assess(Request& request, std::int64_t now_ns) {
  Admission admission;
  std::optional<AdmissionState::Following>& following = request.admission.following;
  admission.follows = following && still_leads(*following);
  if (!admission.follows) {
    admission = look_up(request);
    const Pos n_have = admission.match.n_restorable;
    if (Request* leader = leader_of(request, n_have)) {
      follow(request, *leader, n_have, now_ns);
      admission.follows = true;
    }
  }
  // Of what a leader computes nothing will be needed a second time.
  const Pos n_shared = admission.follows ? following->until
                                         : admission.match.n_held - admission.match.n_newly_pinned;
  admission.n_cells = n_promised(request) - n_shared;
  return admission;
}

Scheduler::Admission Scheduler::look_up(const Request& request) const {
  if (request.cache_space && request.n_output() == 0 && !request.scores()) {
    const auto logits = logits_.find(*request.cache_space, request.tokens());
    if (!logits.empty()) {
      const PrefixCache::Match whole = cache_.match(*request.cache_space, request.tokens());
      if (whole.n_held == request.n_tokens()) return {whole, logits};
    }
  }
  return {match_reusable(request), {}};
}

PrefixCache::Match Scheduler::match_reusable(const Request& request) const {
  if (!request.cache_space) return {};
  return cache_.match(*request.cache_space, request.tokens().first(request.n_reusable()));
}

bool Scheduler::still_leads(const AdmissionState::Following& following) const {
  return std::ranges::any_of(running_, [&](const auto& r) {
    return r->id() == following.leader && r->kv_len() < following.until;
  });
}

/// Tokens of another that it could use once they are computed.
Pos Scheduler::n_shareable(const Request& request, const Request& other) {
  const Pos n_common = common_length(request.tokens(), other.tokens());
  return request.scores() ? std::min(n_common, request.n_reusable()) : n_common;
}

/// Who is computing most of what the request still lacks, if waiting for it pays.
Request* Scheduler::leader_of(const Request& request, Pos n_have) {
  if (!request.cache_space) return nullptr;
  Request* best = nullptr;
  PrefillLead lead{n_have, n_have, 0, 0};
  for (const auto& other : running_) {
    if (other->n_pending() <= 1) continue;
    lead.n_ahead += other->n_pending();
    if (other->cache_space != request.cache_space) continue;
    const Pos n_common = n_shareable(request, *other);
    if (n_common <= std::max(lead.n_common, other->kv_len())) continue;
    best = other.get();
    lead.n_common = n_common;
    lead.n_leader = other->kv_len();
  }
  return best != nullptr && should_wait_for_prefill(lead, model_.costs()) ? best : nullptr;
}

void Scheduler::follow(Request& request, Request& leader, Pos n_have, std::int64_t now_ns) {
  if (!request.admission.following) {
    request.spend(request.waiting_kind(), now_ns);
    request.admission.following = {0, 0, n_have, now_ns};
    ++n_followers_;
  }
  request.admission.following->leader = leader.id();
  request.admission.following->until = n_shareable(request, leader);
  if (options_.shares_at_cuts) leader.admission.cuts.insert(request.admission.following->until);
  if (request.queue_entry.key.priority < leader.queue_entry.key.priority)
    queue_.raise(leader, request.queue_entry.key.priority);
}

void Scheduler::start(Request& request, const Admission& admission, std::int64_t now_ns,
                      std::vector<KvOp>& ops) {
  running_.push_back(queue_.take(request.id()));
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
  Admission admission{match_reusable(*request), {}};
  admission.n_cells =
      n_promised(*request) - admission.match.n_held + admission.match.n_newly_pinned;
  if (!fits(admission, room({}))) return false;
  plan_.clear();
  start(*request, admission, now_ns, ops);
  return true;
}

}  // namespace llamaherd

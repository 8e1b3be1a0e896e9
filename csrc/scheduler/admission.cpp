#include "scheduler/admission.h"

#include <algorithm>

#include "common/common_prefix.h"
#include "scheduler/cell_budget.h"
#include "scheduler/prefill_sharing.h"

namespace llamaherd {

std::int64_t Admission::latest_start_ns(const Request& request, Pos n_have) const {
  const SchedulingKey& key = request.queue_entry.key;
  if (key.deadline_ns == kNever && key.ttft_deadline_ns == kNever) return kNever;
  if (!model_.measured()) return std::min(key.deadline_ns, key.ttft_deadline_ns);
  const auto n_beside = static_cast<std::int32_t>(running_.size());
  double step_ns = model_.call_ns({n_beside + 1});
  if (n_beside > 0) step_ns = std::max(step_ns, model_.mean_step_ns());
  double prefill_ns = (request.n_tokens() - n_have) * model_.costs().prefill_token_ns;
  const std::int32_t n_left = std::max(request.n_output_least() - request.n_output() - 1, 0);
  const auto before = [](std::int64_t deadline_ns, double ns) {
    return deadline_ns == kNever ? kNever : deadline_ns - static_cast<std::int64_t>(ns);
  };
  const std::int64_t ttft_ns = request.n_output() == 0 ? key.ttft_deadline_ns : kNever;
  return std::min(before(ttft_ns, prefill_ns),
                  before(key.deadline_ns, prefill_ns + n_left * step_ns));
}

Admission::Assessment Admission::assess(Request& request, std::int64_t now_ns) {
  Assessment assessment;
  std::optional<AdmissionState::Following>& following = request.admission.following;
  assessment.follows = following && still_leads(*following);
  if (!assessment.follows) {
    assessment = look_up(request);
    const Pos n_have = assessment.match.n_restorable;
    if (Request* leader = leader_of(request, n_have)) {
      follow(request, *leader, n_have, now_ns);
      assessment.follows = true;
    }
  }
  // Tokens computed by a leader are not computed again.
  const Pos n_shared = assessment.follows
                           ? following->until
                           : assessment.match.n_held - assessment.match.n_newly_pinned;
  assessment.n_cells = CellBudget::n_promised(request) - n_shared;
  return assessment;
}

Admission::Assessment Admission::assess_alone(const Request& request) const {
  Assessment assessment{match_reusable(request), {}};
  const PrefixCache::Match& match = assessment.match;
  assessment.n_cells = CellBudget::n_promised(request) - match.n_held + match.n_newly_pinned;
  return assessment;
}

Admission::Assessment Admission::look_up(const Request& request) const {
  if (request.cache_space && request.n_output() == 0 && !request.scores()) {
    const auto logits = logits_.find(*request.cache_space, request.tokens());
    if (!logits.empty()) {
      const PrefixCache::Match whole = cache_.match(*request.cache_space, request.tokens());
      if (whole.n_held == request.n_tokens()) return {whole, logits};
    }
  }
  return {match_reusable(request), {}};
}

PrefixCache::Match Admission::match_reusable(const Request& request) const {
  if (!request.cache_space) return {};
  return cache_.match(*request.cache_space, request.tokens().first(request.n_reusable()));
}

bool Admission::still_leads(const AdmissionState::Following& following) const {
  return std::ranges::any_of(running_, [&](const auto& r) {
    return r->id() == following.leader && r->kv_len() < following.until;
  });
}

/// Number of tokens of the other request that this one can share once they are computed.
Pos Admission::n_shareable(const Request& request, const Request& other) {
  const Pos n_common = common_length(request.tokens(), other.tokens());
  return request.scores() ? std::min(n_common, request.n_reusable()) : n_common;
}

/// The request that computes most of the tokens this one lacks, if waiting for it pays off.
Request* Admission::leader_of(const Request& request, Pos n_have) const {
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

void Admission::follow(Request& request, Request& leader, Pos n_have, std::int64_t now_ns) {
  if (!request.admission.following) {
    request.spend(request.waiting_kind(), now_ns);
    request.admission.following = {0, 0, n_have, now_ns};
    ++n_followers_;
  }
  request.admission.following->leader = leader.id();
  request.admission.following->until = n_shareable(request, leader);
  if (shares_at_cuts_) leader.admission.cuts.insert(request.admission.following->until);
  if (request.queue_entry.key.priority < leader.queue_entry.key.priority)
    queue_.raise(leader, request.queue_entry.key.priority);
}

}  // namespace llamaherd

#include "scheduler.h"

#include <algorithm>

namespace llamaherd {

StepPlan& Scheduler::plan_step(std::int64_t now_ns) {
  plan_.clear();
  admit(now_ns);
  pack();
  return plan_;
}

void Scheduler::admit(std::int64_t now_ns) {
  while (!waiting_.empty()) {
    Request& next = *waiting_.front();
    if (!pool_.can_acquire(next.n_cells_needed())) return;
    next.start(pool_.acquire(next.n_cells_needed()), now_ns);
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

void Scheduler::pack() {
  n_pending_.clear();
  for (const auto& request : running_) n_pending_.push_back(request->n_pending());
  n_granted_.resize(n_pending_.size());
  pack_tokens(n_pending_, options_.budget, n_granted_);

  auto add = [&](CallPlan& call, std::size_t i) {
    Request& request = *running_[i];
    call.add(&request, request.seq(), request.kv_len(), request.kv_len() + n_granted_[i],
             n_granted_[i] == n_pending_[i]);
  };
  CallPlan& prefill = options_.split_prefill ? plan_.prefill : plan_.decode;
  for (std::size_t i = 0; i < running_.size(); ++i) {
    if (n_granted_[i] > 0 && n_pending_[i] == 1) add(plan_.decode, i);
  }
  for (std::size_t i = 0; i < running_.size(); ++i) {
    if (n_granted_[i] > 0 && n_pending_[i] > 1) add(prefill, i);
  }
}

Request* Scheduler::find(RequestId id) {
  for (const auto& request : running_) {
    if (request->id() == id) return request.get();
  }
  // Ids grow with the time of submission, and the queue is in that order.
  auto it =
      std::lower_bound(waiting_.begin(), waiting_.end(), id,
                       [](const auto& request, RequestId key) { return request->id() < key; });
  return it != waiting_.end() && (*it)->id() == id ? it->get() : nullptr;
}

void Scheduler::remove(RequestId id) {
  auto has_id = [id](const auto& request) { return request->id() == id; };
  if (std::erase_if(running_, has_id) == 0) std::erase_if(waiting_, has_id);
}

}  // namespace llamaherd

#include "scheduler/preemption.h"

#include <limits>
#include <utility>

namespace llamaherd {

void Preemption::make_room_to_grow(std::int64_t now_ns, std::vector<KvOp>& ops,
                                   std::vector<Request*>& preempted) {
  while (running_.size() > 1 && budget_.is_exceeded()) {
    constexpr auto kAnyClass = std::numeric_limits<std::int32_t>::min();
    Request* request = victim(kAnyClass, false);
    preempt(request != nullptr ? *request : *victim(kAnyClass, true), now_ns, ops, preempted);
  }
}

bool Preemption::make_way(const Request& request, std::int32_t n_cells, const Room& reserved,
                          std::int64_t now_ns, std::vector<KvOp>& ops,
                          std::vector<Request*>& preempted) {
  const std::int32_t priority = request.queue_entry.key.priority;
  Room most = budget_.room(reserved);
  for (const auto& other : running_) {
    if (other->queue_entry.key.priority <= priority) continue;
    if (!may_be_preempted(other->n_preempted(), other->n_progress())) continue;
    ++most.n_seqs;
    most.n_cells += other->kv_len() + CellBudget::n_promised(*other);
  }
  if (!most.has(n_cells)) return false;
  while (!budget_.room(reserved).has(n_cells)) {
    Request* other = victim(priority, false);
    if (other == nullptr) return false;
    preempt(*other, now_ns, ops, preempted);
  }
  return true;
}

/// The running request of a class below this priority to preempt; nullptr if there is none.
Request* Preemption::victim(std::int32_t above_priority, bool any) {
  runners_.clear();
  runner_requests_.clear();
  for (const auto& r : running_) {
    if (r->queue_entry.key.priority <= above_priority) continue;
    runners_.push_back({r->id(), r->queue_entry.key.priority, r->n_preempted(), r->n_progress()});
    runner_requests_.push_back(r.get());
  }
  const auto chosen = choose_victim(runners_, any);
  return chosen ? runner_requests_[*chosen] : nullptr;
}

void Preemption::preempt(Request& request, std::int64_t now_ns, std::vector<KvOp>& ops,
                         std::vector<Request*>& preempted) {
  std::unique_ptr<Request> owned = take(request);
  pool_.release(request.seq());
  cache_.release(request.seq(), request.tokens(), ops);
  request.preempt(now_ns);
  preempted.push_back(&request);
  queue_.push(std::move(owned), now_ns);
  ++n_preempted_;
}

std::unique_ptr<Request> Preemption::take(Request& request) {
  queue_.settle(request, request.n_progress());
  return running_.take(request);
}

}  // namespace llamaherd

#include "scheduler/request_queue.h"

#include <algorithm>
#include <queue>
#include <tuple>

namespace llamaherd {
namespace {

// Bounds the priority raises per step: many requests may have arrived at the same time.
constexpr int kMaxAgedAtOnce = 4;

// Idle tenants per class whose service is remembered. Bounded, as clients choose the names.
constexpr std::size_t kMaxIdle = 1024;

}  // namespace

void RequestQueue::push(std::unique_ptr<Request> request, std::int64_t now_ns) {
  Request& r = *request;
  r.queue_entry.ages_ns = r.queue_entry.key.priority > 0 && options_.aging_ns != kNever
                              ? now_ns + options_.aging_ns
                              : kNever;
  n_tokens_ += r.n_tokens();
  requests_.emplace(r.id(), std::move(request));
  if (r.queue_entry.latest_start_ns != kNever)
    overdue_.emplace(r.queue_entry.latest_start_ns, r.id());
  enter(r);
}

void RequestQueue::enter(Request& r) {
  Class& c = classes_[r.queue_entry.key.priority];
  forget_idle(c);
  Account& a = account(c, r.queue_entry.key.tenant);
  unfile(c, r.queue_entry.key.tenant, a);
  if (a.waiting.empty() && a.n_running == 0) a.served = std::max(a.served, c.floor);
  a.waiting.emplace(r.queue_entry.key.deadline_ns, r.id());
  file(c, r.queue_entry.key.tenant, a);
  if (r.queue_entry.ages_ns != kNever) aging_.emplace(r.queue_entry.ages_ns, r.id());
}

void RequestQueue::leave(Request& r) {
  Class& c = classes_.at(r.queue_entry.key.priority);
  Account& a = account(c, r.queue_entry.key.tenant);
  unfile(c, r.queue_entry.key.tenant, a);
  a.waiting.erase({r.queue_entry.key.deadline_ns, r.id()});
  file(c, r.queue_entry.key.tenant, a);
  if (r.queue_entry.ages_ns != kNever) aging_.erase({r.queue_entry.ages_ns, r.id()});
}

Request* RequestQueue::first_but(std::span<Request* const> but) const {
  for (const auto& [priority, c] : classes_) {
    for (const auto& [served, tenant] : c.backlogged) {
      for (const auto& [deadline, id] : c.accounts.at(tenant).waiting) {
        Request* request = requests_.at(id).get();
        if (std::ranges::find(but, request) == but.end()) return request;
      }
    }
  }
  return nullptr;
}

Request* RequestQueue::find(RequestId id) const {
  const auto it = requests_.find(id);
  return it == requests_.end() ? nullptr : it->second.get();
}

std::unique_ptr<Request> RequestQueue::take(RequestId id) {
  const auto it = requests_.find(id);
  if (it == requests_.end()) return nullptr;
  std::unique_ptr<Request> request = std::move(it->second);
  requests_.erase(it);
  leave(*request);
  overdue_.erase({request->queue_entry.latest_start_ns, id});
  n_tokens_ -= request->n_tokens();
  return request;
}

void RequestQueue::age(std::int64_t now_ns) {
  for (int i = 0; i < kMaxAgedAtOnce && !aging_.empty(); ++i) {
    const auto [ages_ns, id] = *aging_.begin();
    if (ages_ns > now_ns) return;
    Request& request = *requests_.at(id);
    leave(request);
    --request.queue_entry.key.priority;
    request.queue_entry.ages_ns =
        request.queue_entry.key.priority > 0 ? ages_ns + options_.aging_ns : kNever;
    enter(request);
  }
}

void RequestQueue::charge(Request& request, std::int32_t n_tokens) {
  Class& c = classes_[request.queue_entry.key.priority];
  Account& a = account(c, request.queue_entry.key.tenant);
  unfile(c, request.queue_entry.key.tenant, a);
  c.floor = std::max(c.floor, a.served);
  a.served += n_tokens / a.weight;
  ++a.n_running;
  request.queue_entry.n_charged = n_tokens;
  file(c, request.queue_entry.key.tenant, a);
  forget_idle(c);
}

void RequestQueue::settle(Request& request, std::int32_t n_tokens) {
  Class& c = classes_.at(request.queue_entry.key.priority);
  Account& a = account(c, request.queue_entry.key.tenant);
  unfile(c, request.queue_entry.key.tenant, a);
  a.served += (n_tokens - request.queue_entry.n_charged) / a.weight;
  --a.n_running;
  file(c, request.queue_entry.key.tenant, a);
  forget_idle(c);
}

void RequestQueue::raise(Request& request, std::int32_t priority) {
  const std::int32_t n_charged = request.queue_entry.n_charged;
  settle(request, 0);
  request.queue_entry.key.priority = priority;
  charge(request, n_charged);
}

void RequestQueue::set_latest_start(Request& request, std::int64_t latest_ns) {
  overdue_.erase({request.queue_entry.latest_start_ns, request.id()});
  request.queue_entry.latest_start_ns = latest_ns;
  if (latest_ns != kNever) overdue_.emplace(latest_ns, request.id());
}

std::size_t RequestQueue::n_accounts() const {
  std::size_t n = 0;
  for (const auto& [priority, c] : classes_) n += c.accounts.size();
  return n;
}

std::vector<RequestId> RequestQueue::expected_order() const {
  std::vector<RequestId> order;
  order.reserve(requests_.size());
  for (const auto& [priority, c] : classes_) append_expected(c, order);
  return order;
}

void RequestQueue::append_expected(const Class& c, std::vector<RequestId>& order) const {
  struct Backlog {
    double served;
    const std::string* tenant;
    const Account* account;
    std::set<std::pair<std::int64_t, RequestId>>::const_iterator next;
  };
  const auto later = [](const Backlog& a, const Backlog& b) {
    return std::tie(a.served, *a.tenant) > std::tie(b.served, *b.tenant);
  };
  std::priority_queue<Backlog, std::vector<Backlog>, decltype(later)> backlogs(later);
  for (const auto& [served, tenant] : c.backlogged) {
    const Account& account = c.accounts.at(tenant);
    backlogs.push({served, &tenant, &account, account.waiting.begin()});
  }
  while (!backlogs.empty()) {
    Backlog backlog = backlogs.top();
    backlogs.pop();
    const RequestId id = backlog.next->second;
    order.push_back(id);
    backlog.served += requests_.at(id)->n_cells_needed() / backlog.account->weight;
    if (++backlog.next != backlog.account->waiting.end()) backlogs.push(backlog);
  }
}

Request* RequestQueue::overdue(std::int64_t now_ns) const {
  if (overdue_.empty() || overdue_.begin()->first > now_ns) return nullptr;
  return requests_.at(overdue_.begin()->second).get();
}

RequestQueue::Account& RequestQueue::account(Class& c, const std::string& tenant) {
  const auto [it, is_new] = c.accounts.try_emplace(tenant);
  if (is_new) {
    const auto weight = options_.weights.find(tenant);
    if (weight != options_.weights.end()) it->second.weight = weight->second;
  }
  return it->second;
}

void RequestQueue::unfile(Class& c, const std::string& tenant, const Account& a) {
  c.backlogged.erase({a.served, tenant});
  c.idle.erase({a.served, tenant});
}

void RequestQueue::file(Class& c, const std::string& tenant, const Account& a) {
  if (!a.waiting.empty()) {
    c.backlogged.emplace(a.served, tenant);
  } else if (a.n_running == 0) {
    c.idle.emplace(a.served, tenant);
  }
}

void RequestQueue::forget_idle(Class& c) {
  while (!c.idle.empty() && (c.idle.begin()->first <= c.floor || c.idle.size() > kMaxIdle)) {
    c.accounts.erase(c.idle.begin()->second);
    c.idle.erase(c.idle.begin());
  }
}

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/types.h"
#include "request/request.h"

namespace llamaherd {

/// The waiting requests in scheduling order: by class, the lowest first; within a class by the
/// tenant with the fewest tokens served per weight (Sheng et al., Fairness in Serving Large
/// Language Models, OSDI 2024); within a tenant by the earliest deadline, then by age. The priority
/// of waiting requests is raised at intervals (aging). All operations take time logarithmic in the
/// number of requests.
class RequestQueue {
 public:
  struct Options {
    std::int64_t aging_ns = kNever;  // interval after which a waiting request's priority is raised
    std::map<std::string, double> weights;  // of tenants, > 0; default 1
  };

  explicit RequestQueue(const Options& options) : options_(options) {}

  void push(std::unique_ptr<Request> request, std::int64_t now_ns);

  /// The first request in order that is not in `but`, or nullptr.
  Request* first_but(std::span<Request* const> but) const;

  Request* find(RequestId id) const;
  std::unique_ptr<Request> take(RequestId id);
  /// Any request, or nullptr.
  Request* any() const { return requests_.empty() ? nullptr : requests_.begin()->second.get(); }

  /// Raises the priority of requests whose interval has passed: a bounded number per call.
  void age(std::int64_t now_ns);

  /// The request was taken from the queue and runs: charges its tenant the expected number of
  /// tokens.
  void charge(Request& request, std::int32_t n_tokens);
  /// The request ended or stopped after n_tokens: corrects the charge.
  void settle(Request& request, std::int32_t n_tokens);

  /// Raises a running request to the class of a more urgent request that waits for it.
  void raise(Request& request, std::int32_t priority);

  /// Sets the time by which the request must have started.
  void set_latest_start(Request& request, std::int64_t latest_ns);
  /// A request whose latest start has passed, or nullptr.
  Request* overdue(std::int64_t now_ns) const;

  /// All requests in the order in which they are expected to be taken if no other one arrives: each
  /// tenant is charged for its requests before. Takes time proportional to their number.
  std::vector<RequestId> expected_order() const;

  std::size_t size() const { return requests_.size(); }
  bool empty() const { return requests_.empty(); }
  /// Prompt tokens of all waiting requests.
  std::int64_t n_tokens() const { return n_tokens_; }
  /// Tenants with an account in any class: those with requests, and a bounded number of idle ones.
  std::size_t n_accounts() const;

 private:
  struct Account {
    double weight = 1;
    double served = 0;                                     // tokens per weight
    std::set<std::pair<std::int64_t, RequestId>> waiting;  // by deadline
    int n_running = 0;
  };
  using Ranks = std::set<std::pair<double, std::string>>;  // tenants by tokens served
  struct Class {
    std::map<std::string, Account> accounts;
    Ranks backlogged;
    Ranks idle;        // without requests; their service is remembered for a while
    double floor = 0;  // served tokens per weight of the recently first tenant; the least that a
                       // new tenant starts with
  };

  void append_expected(const Class& c, std::vector<RequestId>& order) const;
  void enter(Request& request);
  void leave(Request& request);
  Account& account(Class& c, const std::string& tenant);
  static void unfile(Class& c, const std::string& tenant, const Account& account);
  static void file(Class& c, const std::string& tenant, const Account& account);
  static void forget_idle(Class& c);

  Options options_;
  std::map<std::int32_t, Class> classes_;
  std::unordered_map<RequestId, std::unique_ptr<Request>> requests_;
  std::set<std::pair<std::int64_t, RequestId>> aging_;    // by time of the next priority raise
  std::set<std::pair<std::int64_t, RequestId>> overdue_;  // by latest start
  std::int64_t n_tokens_ = 0;
};

}  // namespace llamaherd

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>

#include "common/types.h"
#include "request/request.h"

namespace llamaherd {

/// The requests that wait, in the order in which they should run: by class, the lowest first;
/// within a class the tenant that was served fewest tokens for its weight (Sheng et al., Fairness
/// in Serving Large Language Models, OSDI 2024); of a tenant's the one with the earliest deadline,
/// then the oldest. Who waits goes up a class again and again. Everything takes time logarithmic in
/// the number of requests.
class RequestQueue {
 public:
  struct Options {
    std::int64_t aging_ns = kNever;         // after so long a request goes up a class
    std::map<std::string, double> weights;  // of tenants, > 0; those not named have 1
  };

  explicit RequestQueue(const Options& options) : options_(options) {}

  void push(std::unique_ptr<Request> request, std::int64_t now_ns);

  /// The first in order that is not one of `but`; nullptr: there is none.
  Request* first_but(std::span<Request* const> but) const;

  Request* find(RequestId id) const;
  std::unique_ptr<Request> take(RequestId id);
  /// Any one, or nullptr.
  Request* any() const { return requests_.empty() ? nullptr : requests_.begin()->second.get(); }

  /// Moves those whose time has come up a class: a bounded number, the others next time.
  void age(std::int64_t now_ns);

  /// A request taken from the queue runs, and its tenant is going to be served so many tokens.
  void charge(Request& request, std::int32_t n_tokens);
  /// It ended or stopped after as many as it really was.
  void settle(Request& request, std::int32_t n_tokens);

  /// A running request is wanted by one of a lower class, and belongs to that from now on.
  void raise(Request& request, std::int32_t priority);

  /// A request that has to start by then, or can no longer be of use.
  void set_latest_start(Request& request, std::int64_t latest_ns);
  /// Some request whose latest start has passed, or nullptr.
  Request* overdue(std::int64_t now_ns) const;

  std::size_t size() const { return requests_.size(); }
  bool empty() const { return requests_.empty(); }
  /// Tokens of all of them.
  std::int64_t n_tokens() const { return n_tokens_; }
  /// Tenants that are known in some class: those who wait or run, and a bounded number of others.
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
    Ranks idle;        // neither waiting nor running; known for what they were served lately
    double floor = 0;  // tokens served to who was first lately: nobody who comes has had less
  };

  void enter(Request& request);
  void leave(Request& request);
  Account& account(Class& c, const std::string& tenant);
  static void unfile(Class& c, const std::string& tenant, const Account& account);
  static void file(Class& c, const std::string& tenant, const Account& account);
  static void forget_idle(Class& c);

  Options options_;
  std::map<std::int32_t, Class> classes_;
  std::unordered_map<RequestId, std::unique_ptr<Request>> requests_;
  std::set<std::pair<std::int64_t, RequestId>> aging_;    // by when they go up a class
  std::set<std::pair<std::int64_t, RequestId>> overdue_;  // by latest start
  std::int64_t n_tokens_ = 0;
};

}  // namespace llamaherd

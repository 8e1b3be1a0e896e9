#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "budget.h"
#include "request.h"
#include "seq_pool.h"
#include "step_plan.h"

namespace llamaherd {

/// Decides who runs in the next step and how much of it. Touches no backend.
class Scheduler {
 public:
  struct Options {
    Budget budget;
    bool split_prefill = false;
  };

  Scheduler(const Options& options, SeqPool& pool) : options_(options), pool_(pool) {}

  void submit(std::unique_ptr<Request> request) { waiting_.push_back(std::move(request)); }

  /// Admits what fits, first come first served, and packs the step. The plan points into requests
  /// this scheduler owns; it is valid until the next call of any method.
  StepPlan& plan_step(std::int64_t now_ns);

  /// The request, waiting or running, or nullptr.
  Request* find(RequestId id);

  /// Destroys a request. A running one's sequence must have been released before.
  void remove(RequestId id);

  const std::vector<std::unique_ptr<Request>>& running() const { return running_; }
  const std::deque<std::unique_ptr<Request>>& waiting() const { return waiting_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }

 private:
  void admit(std::int64_t now_ns);
  void pack();

  Options options_;
  SeqPool& pool_;
  std::deque<std::unique_ptr<Request>> waiting_;
  std::vector<std::unique_ptr<Request>> running_;  // in order of admission
  StepPlan plan_;
  std::vector<std::int32_t> n_pending_;
  std::vector<std::int32_t> n_granted_;
};

}  // namespace llamaherd

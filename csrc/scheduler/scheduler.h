#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache/prefix_cache.h"
#include "cache/prompt_logits_cache.h"
#include "cache/sequence_id_pool.h"
#include "cost/cost_model.h"
#include "request/request.h"
#include "scheduler/admission.h"
#include "scheduler/cell_budget.h"
#include "scheduler/preemption.h"
#include "scheduler/request_queue.h"
#include "scheduler/running_set.h"
#include "scheduler/step_packer.h"
#include "scheduler/step_plan.h"
#include "speculation/speculation_policy.h"

namespace llamaherd {

/// Decides which requests run in the next step, and how many tokens of each. Does not use the
/// backend.
///
/// A request is admitted if there are cells for all its tokens and for headroom of itself and of
/// the running requests. If running requests grow beyond the cells, one is preempted: it returns to
/// the queue, and its computed tokens stay cached while there is room. Pending tokens of running
/// requests therefore always find cells: cached prefixes are evicted for them.
class Scheduler {
 public:
  struct Options {
    PackingOptions packing;
    std::int32_t n_cells = 0;
    std::int32_t max_scored_rows = 0;  // see BackendInfo
    bool shares_at_cuts = false;       // sequences can be shared only where prefill stopped
    bool may_draft = false;            // calls may have rows of draft tokens
    RequestQueue::Options queue;
  };

  Scheduler(const Options& options, const CostModel& model, SequenceIdPool& pool,
            PrefixCache& cache, PromptLogitsCache& logits)
      : options_(options),
        model_(model),
        pool_(pool),
        cache_(cache),
        queue_(options.queue),
        budget_(options.n_cells, running_, pool, cache),
        admission_(model, cache, logits, queue_, running_, options.shares_at_cuts),
        preemption_(running_, queue_, pool, cache, budget_),
        packer_(options.packing, pool.n_seqs()),
        drafter_(std::max(pool.n_seqs(), kRowsWithLogits)) {}

  void submit(std::unique_ptr<Request> request, std::int64_t now_ns);

  /// Preempts if cells run out, admits queued requests that fit, and packs the step's calls.
  /// Updates the queue, the running set and the cache's accounts immediately; the caller must
  /// execute the plan's operations on the backend. The plan points to requests of this scheduler
  /// and is valid until the next call of any method.
  StepPlan& prepare_step(std::int64_t now_ns);

  /// A request that has missed a deadline, or that waits and is predicted to miss one even if it
  /// starts now; nullptr if there is none (left).
  Request* overdue(std::int64_t now_ns);

  /// Starts one waiting request out of order if it fits. It has at least one pending token.
  bool admit_now(RequestId id, std::int64_t now_ns, std::vector<KvOp>& ops);

  /// Returns a running request whose cells are lost to its place in the queue.
  void requeue(Request& request, std::int64_t now_ns);

  /// The request, waiting or running, or nullptr if there is none.
  Request* find(RequestId id);

  /// See SpeculationPolicy.
  bool observe_draft(std::int32_t n_rows, double ratio) { return drafter_.observe(n_rows, ratio); }

  /// Removes a request, waiting or running. The caller releases its sequence.
  std::unique_ptr<Request> take(Request& request);

  const std::vector<std::unique_ptr<Request>>& running() const { return running_.all(); }
  const RequestQueue& queue() const { return queue_; }
  bool idle() const { return running_.size() == 0 && queue_.empty(); }

  /// Cells reserved for running requests: pending tokens and headroom.
  std::int32_t n_cells_promised() const { return budget_.n_promised(); }

  /// Tokens of requests that may use the cache, counted at admission.
  std::int64_t n_looked_up() const { return n_looked_up_; }
  std::int64_t n_followers() const { return admission_.n_followers(); }
  std::int64_t follower_wait_ns() const { return follower_wait_ns_; }
  std::int64_t n_preempted() const { return preemption_.n_preempted(); }

  /// Prefill time budget of the last step in nanoseconds; 0: no request decoded.
  double prefill_budget_ns() const { return packer_.prefill_budget_ns(); }

 private:
  void admit(std::int64_t now_ns);
  bool could_start(const Request& request) const;
  void start(Request& request, const Admission::Assessment& admission, std::int64_t now_ns,
             std::vector<KvOp>& ops);

  void pack();
  void draft(CallPlan& call);
  void add(CallPlan& call, Request& request, std::int32_t n) const;

  Options options_;
  const CostModel& model_;
  SequenceIdPool& pool_;
  PrefixCache& cache_;
  RequestQueue queue_;
  RunningSet running_;
  CellBudget budget_;
  Admission admission_;
  Preemption preemption_;
  Packer packer_;
  SpeculationPolicy drafter_;
  StepPlan plan_;
  std::vector<Request*> packable_;
  std::vector<Candidate> candidates_;             // parallel to packable_
  std::vector<bool> has_rows_;                    // likewise
  std::vector<DraftCandidate> draft_candidates_;  // of one call's items
  std::vector<Request*> passed_;                  // not admitted in this step; they stay queued
  std::vector<Request*> blocked_;                 // of these, those that do not fit
  std::int64_t n_steps_ = 0;
  std::int64_t n_looked_up_ = 0;
  std::int64_t follower_wait_ns_ = 0;
};

}  // namespace llamaherd

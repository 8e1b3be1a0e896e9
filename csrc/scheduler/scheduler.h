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
#include "scheduler/preemption_policy.h"
#include "scheduler/request_queue.h"
#include "scheduler/step_packer.h"
#include "scheduler/step_plan.h"
#include "speculation/speculation_policy.h"

namespace llamaherd {

/// Decides who runs in the next step and how much of it. Touches no backend.
///
/// A request is started when there are cells for all its tokens and for some growth, its own and of
/// those that run. Where they all grow further than the cells reach, somebody is preempted: it
/// waits again, and what it computed stays cached as long as there is room. So the pending tokens
/// of those who run always find their cells: cached prefixes give way.
class Scheduler {
 public:
  struct Options {
    PackingOptions packing;
    std::int32_t n_cells = 0;
    std::int32_t max_scored_rows = 0;  // see BackendInfo
    bool shares_at_cuts = false;       // only where prefill stopped can a sequence be shared
    bool may_draft = false;            // calls may carry rows of draft_tokens
    RequestQueue::Options queue;
  };

  Scheduler(const Options& options, const CostModel& model, SequenceIdPool& pool,
            PrefixCache& cache, PromptLogitsCache& logits)
      : options_(options),
        model_(model),
        pool_(pool),
        cache_(cache),
        logits_(logits),
        queue_(options.queue),
        packer_(options.packing, pool.n_seqs()),
        drafter_(std::max(pool.n_seqs(), kRowsWithLogits)) {}

  void submit(std::unique_ptr<Request> request, std::int64_t now_ns);

  /// Makes room for those who run, starts what fits, and packs the step. The plan points into
  /// requests this scheduler owns; it is valid until the next call of any method.
  StepPlan& plan_step(std::int64_t now_ns);

  /// A request that has missed a deadline, or waits and is predicted to miss one though it started
  /// now; nullptr: none (any more).
  Request* overdue(std::int64_t now_ns);

  /// Starts one waiting request out of turn, if it fits; it will have at least one token to run.
  bool admit_now(RequestId id, std::int64_t now_ns, std::vector<KvOp>& ops);

  /// A running request whose cells are lost waits again, at its old place.
  void requeue(Request& request, std::int64_t now_ns);

  /// The request, waiting or running, or nullptr.
  Request* find(RequestId id);

  /// See SpeculationPolicy.
  bool observe_draft(std::int32_t n_rows, double ratio) { return drafter_.observe(n_rows, ratio); }

  /// Gives a request away, waiting or running. Its sequence stays the caller's to release.
  std::unique_ptr<Request> take(Request& request);

  const std::vector<std::unique_ptr<Request>>& running() const { return running_; }
  const RequestQueue& queue() const { return queue_; }
  bool idle() const { return running_.empty() && queue_.empty(); }

  /// Cells that running requests are to find for their pending tokens and some growth.
  std::int32_t n_cells_promised() const;

  /// Tokens of requests that may use the cache, counted when they were admitted.
  std::int64_t n_looked_up() const { return n_looked_up_; }
  std::int64_t n_followers() const { return n_followers_; }
  std::int64_t follower_wait_ns() const { return follower_wait_ns_; }
  std::int64_t n_preempted() const { return n_preempted_; }

  /// Nanoseconds of prefill the last step was allowed beside decoding; 0: nothing decoded.
  double prefill_budget_ns() const { return packer_.prefill_budget_ns(); }

 private:
  struct Room {
    std::int32_t n_seqs = 0;
    std::int32_t n_cells = 0;
  };
  struct Admission {
    PrefixCache::Match match;
    std::span<const float> logits;  // if the whole prompt is held and these are known
    bool follows = false;           // waits for what another computes
    std::int32_t n_cells = 0;       // to be found beside what others need
  };

  // admission.cpp: who starts.
  void admit(std::int64_t now_ns);
  bool could_start(const Request& request) const;
  Admission assess(Request& request, std::int64_t now_ns);
  Admission look_up(const Request& request) const;
  PrefixCache::Match match_reusable(const Request& request) const;
  static Pos n_shareable(const Request& request, const Request& other);
  Request* leader_of(const Request& request, Pos n_have);
  bool still_leads(const AdmissionState::Following& following) const;
  void follow(Request& request, Request& leader, Pos n_have, std::int64_t now_ns);
  void start(Request& request, const Admission& admission, std::int64_t now_ns,
             std::vector<KvOp>& ops);
  std::int64_t latest_start_ns(const Request& request, Pos n_have) const;
  static std::int32_t n_promised(const Request& request);

  // Who has to stop.
  Room room(const Room& reserved) const;
  static bool fits(const Admission& admission, const Room& room);
  bool make_way(const Request& request, const Admission& admission, const Room& reserved,
                std::int64_t now_ns);
  void make_room_to_grow(std::int64_t now_ns);
  Request* victim(std::int32_t above_priority, bool whoever);
  void preempt(Request& request, std::int64_t now_ns);
  std::unique_ptr<Request> take_running(Request& request);

  void pack();
  void draft(CallPlan& call);
  void add(CallPlan& call, Request& request, std::int32_t n) const;

  Options options_;
  const CostModel& model_;
  SequenceIdPool& pool_;
  PrefixCache& cache_;
  PromptLogitsCache& logits_;
  RequestQueue queue_;
  std::vector<std::unique_ptr<Request>> running_;  // in order of admission
  StepPlan plan_;
  Packer packer_;
  std::vector<Request*> packable_;
  std::vector<Candidate> candidates_;  // the same
  std::vector<bool> has_rows_;         // likewise
  SpeculationPolicy drafter_;
  std::vector<DraftCandidate> draft_candidates_;  // of one call's items
  std::vector<Request*> passed_;   // in this step's admission: they stay where they are
  std::vector<Request*> blocked_;  // of these, for want of room
  std::vector<Runner> runners_;
  std::vector<Request*> runner_requests_;  // the same
  std::int64_t n_steps_ = 0;
  std::int64_t n_looked_up_ = 0;
  std::int64_t n_followers_ = 0;
  std::int64_t follower_wait_ns_ = 0;
  std::int64_t n_preempted_ = 0;
};

}  // namespace llamaherd

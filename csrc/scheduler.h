#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "cost_model.h"
#include "packing.h"
#include "prefix_cache.h"
#include "prompt_logits.h"
#include "request.h"
#include "seq_pool.h"
#include "step_plan.h"

namespace llamaherd {

/// Decides who runs in the next step and how much of it. Touches no backend.
///
/// A running request is promised cells for all it may come to need. What the promises and the cells
/// that running requests hold leave over is cached prefixes, which give way: a running request
/// never finds the cache full.
class Scheduler {
 public:
  struct Options {
    PackingOptions packing;
    std::int32_t n_cells = 0;
    bool shares_at_cuts = false;  // only where prefill stopped can a sequence be shared
  };

  Scheduler(const Options& options, const CostModel& model, SeqPool& pool, PrefixCache& cache,
            PromptLogits& logits)
      : options_(options),
        model_(model),
        pool_(pool),
        cache_(cache),
        logits_(logits),
        packer_(options.packing, pool.n_seqs()) {}

  void submit(std::unique_ptr<Request> request) { waiting_.push_back(std::move(request)); }

  /// Admits what fits, first come first served, and packs the step. The plan points into requests
  /// this scheduler owns; it is valid until the next call of any method.
  StepPlan& plan_step(std::int64_t now_ns);

  /// Admits one waiting request out of turn, if it fits; it will have at least one token to run.
  bool admit_now(RequestId id, std::int64_t now_ns, std::vector<KvOp>& ops);

  /// A running request whose sequence has been released waits again, at its old place.
  void requeue(Request& request);

  /// The request, waiting or running, or nullptr.
  Request* find(RequestId id);

  /// Gives a request away, waiting or running. Its sequence stays the caller's to release.
  std::unique_ptr<Request> take(const Request& request);

  const std::vector<std::unique_ptr<Request>>& running() const { return running_; }
  const std::deque<std::unique_ptr<Request>>& waiting() const { return waiting_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }

  /// Cells promised to running requests that they do not hold yet.
  std::int32_t n_cells_promised() const;

  /// Tokens of requests that may use the cache, counted when they were admitted.
  std::int64_t n_looked_up() const { return n_looked_up_; }
  std::int64_t n_followers() const { return n_followers_; }
  std::int64_t follower_wait_ns() const { return follower_wait_ns_; }

  /// Nanoseconds of prefill the last step was allowed beside decoding; 0: nothing decoded.
  double prefill_budget_ns() const { return packer_.prefill_budget_ns(); }

 private:
  // What is left to give away while the queue is gone through.
  struct Room {
    std::int32_t n_seqs = 0;
    std::int32_t n_cells = 0;
  };
  enum class Decision { kAdmit, kFollow, kBlocked };
  struct Admission {
    PrefixCache::Match match;
    std::span<const float> logits;  // if the whole prompt is held and these are known
  };
  using Queue = std::deque<std::unique_ptr<Request>>;

  Room room() const;
  void admit(std::int64_t now_ns);
  Decision decide(Request& request, Room& room, Admission& admission, std::int64_t now_ns);
  Admission look_up(const Request& request);
  PrefixCache::Match match_all_but_last(const Request& request) const;
  Request* leader_of(const Request& request, Pos n_have);
  bool still_leads(const Request::Following& following);
  void start(Queue::iterator it, const Admission& admission, std::int64_t now_ns, StepPlan& plan);
  void pack();
  static void add(CallPlan& call, Request& request, std::int32_t n);

  Options options_;
  const CostModel& model_;
  SeqPool& pool_;
  PrefixCache& cache_;
  PromptLogits& logits_;
  Queue waiting_;                                  // by id: in order of submission
  std::vector<std::unique_ptr<Request>> running_;  // in order of admission
  StepPlan plan_;
  Packer packer_;
  std::vector<Request*> packable_;
  std::vector<Candidate> candidates_;  // the same
  std::int64_t n_looked_up_ = 0;
  std::int64_t n_followers_ = 0;
  std::int64_t follower_wait_ns_ = 0;
};

}  // namespace llamaherd

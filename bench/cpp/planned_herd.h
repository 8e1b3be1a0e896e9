#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cache/prefix_cache_factory.h"
#include "scheduler/scheduler.h"

namespace llamaherd {

/// A scheduler with 16 running and n waiting requests. No model: plans are committed as if every
/// call had succeeded.
class PlannedHerd {
 public:
  explicit PlannedHerd(std::int32_t n_queued) : n_queued_(n_queued) {
    table_.add("x", false);
    BackendInfo info;
    info.n_seqs = kSeqs;
    info.n_ctx = kCells;
    info.first_holder = kSeqs + 1;
    info.n_holders = 200;
    cache_ = make_cache(info, {});
    Scheduler::Options options;
    options.packing = {2048, 2048};
    options.n_cells = kCells;
    options.queue = {1'000'000'000, {{"tenant 3", 2.0}}};
    scheduler_ = std::make_unique<Scheduler>(options, costs_, pool_, *cache_, logits_);
    fill_queue();
  }

  /// Must be committed before the next call.
  const StepPlan& plan() {
    now_ns_ += 20'000'000;
    return scheduler_->prepare_step(now_ns_);
  }

  void carry_out(const StepPlan& plan) {
    commit(plan);
    fill_queue();
  }

 private:
  static constexpr std::int32_t kSeqs = 16;
  static constexpr std::int32_t kCells = 32768;
  static constexpr Limits kLimits{32000, 8192};

  void fill_queue() {
    while (static_cast<std::int32_t>(scheduler_->queue().size()) < n_queued_) {
      std::vector<TokenId> prompt(50 + random_() % 200);
      for (TokenId& token : prompt) token = static_cast<TokenId>(random_() % 32000);
      SamplingParams params;
      params.max_tokens = 20 + static_cast<std::int32_t>(random_() % 100);
      auto request = std::make_unique<Request>(next_id_++, std::move(prompt), params, 0, kLimits,
                                               table_, now_ns_);
      request->cache_space = 0;
      request->queue_entry.key = {static_cast<std::int32_t>(random_() % 10),
                                  "tenant " + std::to_string(random_() % 50),
                                  random_() % 2 ? kNever : now_ns_ + 3'600'000'000'000, kNever};
      scheduler_->submit(std::move(request), now_ns_);
    }
  }

  void commit(const StepPlan& plan) {
    const TokenId token = 7;
    std::vector<KvOp> ops;
    for (const CallPlan& call : plan.calls) {
      cache_->make_room(call.n_rows, ops);
      for (const PlannedRequest& p : call.items) {
        p.request->commit_step(p.end, p.logits_row >= 0 ? &token : nullptr);
        cache_->publish(p.seq, p.request->tokens().first(p.end), false, ops);
      }
    }
    for (std::size_t i = scheduler_->running().size(); i-- > 0;) {
      Request& request = *scheduler_->running()[i];
      if (request.n_output() < request.max_tokens()) continue;
      const auto ended = scheduler_->take(request);
      pool_.release(ended->seq());
      cache_->release(ended->seq(), ended->tokens(), ops);
    }
  }

  std::int32_t n_queued_;
  std::mt19937 random_{1};
  Vocabulary table_;
  CostModel costs_;
  SequenceIdPool pool_{kSeqs};
  PromptLogitsCache logits_{1 << 20};
  std::unique_ptr<PrefixCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
  RequestId next_id_ = 1;
  std::int64_t now_ns_ = 1;
};

}  // namespace llamaherd

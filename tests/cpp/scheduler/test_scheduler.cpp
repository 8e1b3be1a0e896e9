#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <vector>

#include "scheduler/scheduler.h"
#include "support.h"

namespace llamaherd {
namespace {

struct Item {
  RequestId id;
  Pos begin, end;
  std::int32_t first_row, logits_row;
  bool operator==(const Item&) const = default;
};

std::ostream& operator<<(std::ostream& os, const Item& i) {
  return os << "{" << i.id << ": " << i.begin << ".." << i.end << " at " << i.first_row
            << ", logits " << i.logits_row << "}";
}

std::vector<Item> items(const CallPlan& call) {
  std::vector<Item> found;
  for (const PlannedRequest& p : call.items) {
    EXPECT_EQ(p.seq, p.request->seq());
    found.push_back({p.request->id(), p.begin, p.end, p.first_row, p.logits_row});
  }
  return found;
}

class SchedulerTest : public ::testing::Test {
 protected:
  void make(std::int32_t n_rows, const Calibration& calibration, std::int32_t n_seqs = 4,
            std::int32_t n_cells = 1000) {
    pool_ = std::make_unique<SequenceIdPool>(n_seqs);
    BackendInfo info;
    info.n_seqs = n_seqs;
    info.n_ctx = n_cells;
    info.first_holder = n_seqs + 1;
    info.n_holders = 16;
    cache_ = make_cache(info, {});
    costs_ = CostModel(calibration);
    scheduler_ = std::make_unique<Scheduler>(Scheduler::Options{{n_rows, 4096}, n_cells, false},
                                             costs_, *pool_, *cache_, logits_);
  }

  /// Without a seed the prompt is like no other's.
  Request* submit(RequestId id, std::int32_t n_prompt, std::int32_t max_tokens) {
    return submit(id, std::vector<TokenId>(n_prompt, static_cast<TokenId>(id)), max_tokens);
  }

  Request* submit(RequestId id, std::vector<TokenId> prompt, std::int32_t max_tokens) {
    auto request = std::make_unique<Request>(id, std::move(prompt), greedy({}, max_tokens).params,
                                             0, Limits{kVocab, 1000}, table_, 0);
    request->cache_space = 0;
    Request* submitted = request.get();
    request->queue_entry.key = turn_;
    scheduler_->submit(std::move(request), now_ns_);
    return submitted;
  }

  /// What the engine does with a plan that went well.
  void commit(const CallPlan& call) {
    const TokenId token = 5;
    std::vector<KvOp> ops;
    for (const PlannedRequest& p : call.items) {
      p.request->commit_step(p.end, p.logits_row >= 0 ? &token : nullptr);
      cache_->publish(p.seq, p.request->tokens().first(p.end), false, ops);
    }
  }

  void end(RequestId id) {
    std::vector<KvOp> ops;
    const auto request = scheduler_->take(*scheduler_->find(id));
    if (request->seq() == kNoSeq) return;
    pool_->release(request->seq());
    cache_->release(request->seq(), request->tokens(), ops);
  }

  StepPlan& plan() { return scheduler_->prepare_step(now_ns_); }

  std::set<RequestId> ids_running() const {
    std::set<RequestId> ids;
    for (const auto& request : scheduler_->running()) ids.insert(request->id());
    return ids;
  }

  std::int32_t n_cells_reserved() const {
    return cache_->n_cells_needed() + scheduler_->n_cells_promised();
  }

  std::int64_t now_ns_ = 1;
  SchedulingKey turn_;  // of what is submitted next
  Vocabulary table_ = make_table();
  CostModel costs_;
  PromptLogitsCache logits_{1 << 20};
  std::unique_ptr<SequenceIdPool> pool_;
  std::unique_ptr<PrefixCache> cache_;
  std::unique_ptr<Scheduler> scheduler_;
};

TEST_F(SchedulerTest, AnIdleOnePlansNothing) {
  make(100, joint_calibration());
  EXPECT_TRUE(plan().empty());
  EXPECT_TRUE(scheduler_->idle());
}

TEST_F(SchedulerTest, StartsWhatFindsCellsForItsTokensAndSomeGrowth) {
  make(100, joint_calibration(), 4, 100);
  submit(1, 10, 11);              // 20 cells at most
  submit(2, 30, 30);              // 59 at most
  submit(3, 20, kHeadroom + 50);  // 20 and headroom: does not fit beside them
  plan();
  EXPECT_EQ(ids_running(), (std::set<RequestId>{1, 2}));
  EXPECT_EQ(n_cells_reserved(), 79);
  end(1);
  plan();
  EXPECT_EQ(ids_running(), (std::set<RequestId>{2}));
  end(2);
  plan();
  EXPECT_EQ(ids_running(), (std::set<RequestId>{3}));
  EXPECT_EQ(n_cells_reserved(), 20 + kHeadroom);
}

TEST_F(SchedulerTest, AdmitsNoMoreThanThereAreIds) {
  make(100, joint_calibration(), 2);
  for (RequestId id = 1; id <= 3; ++id) submit(id, 3, 3);
  plan();
  EXPECT_EQ(scheduler_->running().size(), 2u);
  EXPECT_EQ(scheduler_->find(3)->state(), Request::State::kWaiting);
  EXPECT_EQ(scheduler_->find(2)->state(), Request::State::kRunning);
}

TEST_F(SchedulerTest, OneCallHoldsDecodeRowsFirstThenPrompts) {
  make(100, joint_calibration());
  submit(1, 4, 5);
  submit(2, 3, 5);
  commit(plan().calls[0]);
  submit(3, 6, 5);
  const StepPlan& next = plan();
  ASSERT_EQ(next.calls.size(), 1u);
  EXPECT_EQ(items(next.calls[0]),
            (std::vector<Item>{{1, 4, 5, 0, 0}, {2, 3, 4, 1, 1}, {3, 0, 6, 2, 7}}));
  EXPECT_EQ(next.calls[0].n_rows, 8);
  EXPECT_TRUE(next.kv_ops.empty());
}

TEST_F(SchedulerTest, DecodeRowsStandFirstWhereAnEarlierRequestStillPrefills) {
  make(64, joint_calibration());
  submit(1, 200, 5);
  submit(2, 1, 5);
  const StepPlan& first = plan();
  EXPECT_EQ(items(first.calls[0]), (std::vector<Item>{{2, 0, 1, 0, 0}, {1, 0, 63, 1, -1}}));
}

TEST_F(SchedulerTest, WherePrefillGetsACallOfItsOwnDecodeComesFirst) {
  make(100, split_calibration());
  submit(1, 4, 5);
  const StepPlan& first = plan();
  ASSERT_EQ(first.calls.size(), 1u);
  EXPECT_EQ(items(first.calls[0]), (std::vector<Item>{{1, 0, 4, 0, 3}}));
  commit(first.calls[0]);
  submit(2, 6, 5);
  const StepPlan& next = plan();
  ASSERT_EQ(next.calls.size(), 2u);
  EXPECT_EQ(items(next.calls[0]), (std::vector<Item>{{1, 4, 5, 0, 0}}));
  EXPECT_EQ(items(next.calls[1]), (std::vector<Item>{{2, 0, 6, 0, 5}}));
}

TEST_F(SchedulerTest, ALongPromptComesInChunksAndWantsLogitsAtItsEndOnly) {
  make(100, split_calibration());
  submit(1, 250, 5);
  const StepPlan& first = plan();
  EXPECT_EQ(items(first.calls[0]), (std::vector<Item>{{1, 0, 64, 0, -1}}));
  commit(first.calls[0]);
  commit(plan().calls[0]);
  commit(plan().calls[0]);
  const StepPlan& last = plan();
  EXPECT_EQ(items(last.calls[0]), (std::vector<Item>{{1, 192, 250, 0, 57}}));
}

TEST_F(SchedulerTest, FindsAndGivesAwayWaitingAndRunningRequests) {
  make(100, joint_calibration(), 1);
  for (RequestId id : {3, 5, 9}) submit(id, 3, 3);
  plan();
  for (RequestId id : {3, 5, 9}) EXPECT_EQ(scheduler_->find(id)->id(), id);
  for (RequestId id : {1, 4, 10}) EXPECT_EQ(scheduler_->find(id), nullptr);
  end(5);
  EXPECT_EQ(scheduler_->find(5), nullptr);
  EXPECT_NE(scheduler_->find(9), nullptr);
  end(3);
  end(9);
  EXPECT_TRUE(scheduler_->idle());
}

}  // namespace
}  // namespace llamaherd

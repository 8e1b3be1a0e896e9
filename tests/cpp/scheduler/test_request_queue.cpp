#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "scheduler/request_queue.h"
#include "support.h"

namespace llamaherd {
namespace {

constexpr std::int64_t kAging = 1000;

class RequestQueueTest : public ::testing::Test {
 protected:
  Request* push(RequestId id, const SchedulingKey& turn, std::int64_t now_ns = 0) {
    auto request = std::make_unique<Request>(id, std::vector<TokenId>{1, 2}, SamplingParams{}, 0,
                                             Limits{kVocab, 100}, table_, 0);
    request->queue_entry.key = turn;
    Request* pushed = request.get();
    queue_.push(std::move(request), now_ns);
    return pushed;
  }

  RequestId pop(std::int32_t n_tokens = 1) {
    Request* first = queue_.first_but({});
    if (first == nullptr) return 0;
    taken_.push_back(queue_.take(first->id()));
    queue_.charge(*first, n_tokens);
    return first->id();
  }

  std::vector<RequestId> pop_all() {
    std::vector<RequestId> ids;
    for (RequestId id = pop(); id != 0; id = pop()) ids.push_back(id);
    return ids;
  }

  Vocabulary table_ = make_table();
  RequestQueue queue_{{kAging, {{"heavy", 2}, {"light", 0.5}}}};
  std::vector<std::unique_ptr<Request>> taken_;
};

TEST_F(RequestQueueTest, GoesByClassThenDeadlineThenAge) {
  push(1, {5, "", kNever, kNever});
  push(2, {0, "", kNever, kNever});
  push(3, {0, "", 900, kNever});
  push(4, {0, "", 100, kNever});
  push(5, {0, "", kNever, kNever});
  push(6, {2, "", 1, kNever});
  EXPECT_EQ(queue_.size(), 6u);
  EXPECT_EQ(queue_.n_tokens(), 12);
  EXPECT_EQ(pop_all(), (std::vector<RequestId>{4, 3, 2, 5, 6, 1}));
  EXPECT_TRUE(queue_.empty());
  EXPECT_EQ(queue_.n_tokens(), 0);
}

TEST_F(RequestQueueTest, LooksPastThoseItIsTold) {
  Request* a = push(1, {});
  Request* b = push(2, {});
  push(3, {1, "", kNever, kNever});
  const std::vector<Request*> but = {a, b};
  EXPECT_EQ(queue_.first_but(but)->id(), 3u);
  EXPECT_EQ(queue_.first_but({})->id(), 1u);
  EXPECT_EQ(queue_.find(2), b);
  EXPECT_EQ(queue_.find(9), nullptr);
  EXPECT_EQ(queue_.take(9), nullptr);
}

TEST_F(RequestQueueTest, TenantsAreServedByTheirWeights) {
  RequestId id = 1;
  for (const char* tenant : {"heavy", "plain", "light"}) {
    for (int i = 0; i < 400; ++i) push(id++, {0, tenant, kNever, kNever});
  }
  std::map<std::string, int> n_served;
  for (int i = 0; i < 350; ++i) {
    pop(10);
    ++n_served[taken_.back()->queue_entry.key.tenant];
  }
  EXPECT_NEAR(n_served["heavy"], 200, 2);
  EXPECT_NEAR(n_served["plain"], 100, 2);
  EXPECT_NEAR(n_served["light"], 50, 2);
}

TEST_F(RequestQueueTest, TheExpectedOrderIsThatOfTakingAll) {
  std::mt19937 rng(5);
  const std::vector<std::string> tenants = {"heavy", "plain", "light", ""};
  EXPECT_TRUE(queue_.expected_order().empty());
  for (RequestId id = 1; id <= 300; ++id) {
    const auto priority = static_cast<std::int32_t>(rng() % 3);
    const auto deadline_ns = static_cast<std::int64_t>(rng() % 50);
    push(id, {priority, tenants[rng() % 4], deadline_ns < 25 ? kNever : deadline_ns, kNever});
  }
  for (int i = 0; i < 30; ++i) pop(static_cast<std::int32_t>(rng() % 100));
  const std::vector<RequestId> expected = queue_.expected_order();
  std::vector<RequestId> taken;
  while (const Request* first = queue_.first_but({})) taken.push_back(pop(first->n_cells_needed()));
  EXPECT_EQ(taken.size(), 270u);
  EXPECT_EQ(expected, taken);
}

TEST_F(RequestQueueTest, WhatWasNotServedIsPaidBack) {
  for (RequestId id = 1; id <= 20; ++id) push(id, {0, id % 2 ? "a" : "b", kNever, kNever});
  EXPECT_EQ(pop(100), 1u);
  EXPECT_EQ(pop(10), 2u);
  EXPECT_EQ(pop(10), 4u) << "a was charged 100";
  queue_.settle(*taken_[0], 5);
  EXPECT_EQ(pop(10), 3u) << "of which it used 5";
}

TEST_F(RequestQueueTest, WhoWasAwayHasNothingSaved) {
  push(1, {0, "away", kNever, kNever});
  for (RequestId id = 2; id <= 40; ++id) push(id, {0, "busy", kNever, kNever});
  for (int i = 0; i < 20; ++i) pop(10);
  queue_.settle(*taken_[0], 10);
  for (RequestId id = 41; id <= 60; ++id) push(id, {0, "away", kNever, kNever});
  std::map<std::string, int> n_served;
  for (int i = 0; i < 10; ++i) {
    pop(10);
    ++n_served[taken_.back()->queue_entry.key.tenant];
  }
  EXPECT_NEAR(n_served["away"], 5, 1);
}

TEST_F(RequestQueueTest, TenantsThatNeverComeBackAreForgotten) {
  for (RequestId id = 1; id <= 5000; ++id) {
    push(id, {0, "tenant " + std::to_string(id), kNever, kNever});
    EXPECT_EQ(pop(10), id);
    queue_.settle(*taken_.back(), 10);
    taken_.clear();
  }
  EXPECT_LE(queue_.n_accounts(), 1025u);
  for (RequestId id = 6001; id <= 9000; ++id) {
    queue_.take(push(id, {1, "tenant " + std::to_string(id), kNever, kNever})->id());
  }
  EXPECT_LE(queue_.n_accounts(), 2050u);
}

TEST_F(RequestQueueTest, WaitingRaisesTheClass) {
  push(1, {2, "", kNever, kNever}, 0);
  push(2, {1, "", kNever, kNever}, 500);
  push(3, {0, "", kNever, kNever}, 500);
  queue_.age(kAging - 1);
  EXPECT_EQ(queue_.first_but({})->id(), 3u);
  EXPECT_EQ(queue_.find(1)->queue_entry.key.priority, 2);
  queue_.age(kAging);
  EXPECT_EQ(queue_.find(1)->queue_entry.key.priority, 1);
  queue_.age(2 * kAging);
  EXPECT_EQ(queue_.find(1)->queue_entry.key.priority, 0);
  EXPECT_EQ(queue_.find(2)->queue_entry.key.priority, 0);
  queue_.age(100 * kAging);
  EXPECT_EQ(pop_all(), (std::vector<RequestId>{1, 2, 3}));
}

TEST_F(RequestQueueTest, ACrowdAgesInBoundedPieces) {
  for (RequestId id = 1; id <= 1000; ++id) push(id, {1, "", kNever, kNever});
  const auto n_aged = [this] {
    int n = 0;
    for (RequestId id = 1; id <= 1000; ++id) n += queue_.find(id)->queue_entry.key.priority == 0;
    return n;
  };
  queue_.age(kAging);
  const int n_at_once = n_aged();
  EXPECT_GT(n_at_once, 0);
  EXPECT_LT(n_at_once, 100);
  while (n_aged() < 1000) {
    const int n = n_aged();
    queue_.age(kAging);
    ASSERT_GT(n_aged(), n);
  }
}

TEST_F(RequestQueueTest, KnowsWhoIsOverdue) {
  Request* a = push(1, {});
  Request* b = push(2, {});
  queue_.set_latest_start(*a, 50);
  queue_.set_latest_start(*b, 40);
  EXPECT_EQ(queue_.overdue(39), nullptr);
  EXPECT_EQ(queue_.overdue(40), b);
  queue_.set_latest_start(*b, 60);
  EXPECT_EQ(queue_.overdue(50), a);
  queue_.take(1);
  EXPECT_EQ(queue_.overdue(50), nullptr);
  EXPECT_EQ(queue_.overdue(60), b);
  queue_.set_latest_start(*b, kNever);
  EXPECT_EQ(queue_.overdue(1000), nullptr);
}

TEST_F(RequestQueueTest, ARaisedRequestIsOnTheNewClassesAccount) {
  for (RequestId id = 1; id <= 8; ++id)
    push(id, {id < 5 ? 3 : 0, id % 2 ? "a" : "b", kNever, kNever});
  Request* runner = queue_.find(1);
  taken_.push_back(queue_.take(1));
  queue_.charge(*runner, 50);
  queue_.raise(*runner, 0);
  EXPECT_EQ(runner->queue_entry.key.priority, 0);
  EXPECT_EQ(runner->queue_entry.n_charged, 50);
  EXPECT_EQ(pop(10), 6u) << "a has 50 tokens in class 0 now";
  queue_.settle(*runner, 50);
}

/// Orders by sorting, all of it, each time.
class NaiveQueue {
 public:
  std::map<RequestId, SchedulingKey> waiting;
  std::map<std::pair<std::int32_t, std::string>, double> served;

  RequestId first() const {
    RequestId best = 0;
    auto best_rank = std::tuple(0, 0.0, std::string(), std::int64_t{0}, RequestId{0});
    for (const auto& [id, turn] : waiting) {
      const auto it = served.find({turn.priority, turn.tenant});
      const double had = it == served.end() ? 0 : it->second;
      const auto rank = std::tuple(turn.priority, had, turn.tenant, turn.deadline_ns, id);
      if (best == 0 || rank < best_rank) {
        best = id;
        best_rank = rank;
      }
    }
    return best;
  }
};

TEST_F(RequestQueueTest, AgreesWithANaiveTwin) {
  std::mt19937 rng(4);
  NaiveQueue naive;
  std::map<std::int32_t, double> floors;
  std::vector<std::pair<Request*, std::int32_t>> running;
  const auto is_busy = [&](const SchedulingKey& turn) {
    for (const auto& [id, t] : naive.waiting) {
      if (t.priority == turn.priority && t.tenant == turn.tenant) return true;
    }
    for (const auto& [r, n] : running) {
      if (r->queue_entry.key.priority == turn.priority && r->queue_entry.key.tenant == turn.tenant)
        return true;
    }
    return false;
  };
  for (RequestId id = 1; id < 6000; ++id) {
    if (rng() % 2) {
      const SchedulingKey turn{static_cast<std::int32_t>(rng() % 3),
                               std::string(1, static_cast<char>('a' + rng() % 5)),
                               rng() % 3 ? kNever : static_cast<std::int64_t>(rng() % 100), kNever};
      double& had = naive.served[{turn.priority, turn.tenant}];
      if (!is_busy(turn)) had = std::max(had, floors[turn.priority]);
      naive.waiting[id] = turn;
      push(id, turn);
    } else if (!naive.waiting.empty() && rng() % 8) {
      const RequestId expected = naive.first();
      Request* first = queue_.first_but({});
      ASSERT_EQ(first->id(), expected);
      const auto n = static_cast<std::int32_t>(1 + rng() % 50);
      double& had = naive.served[{first->queue_entry.key.priority, first->queue_entry.key.tenant}];
      double& floor = floors[first->queue_entry.key.priority];
      floor = std::max(floor, had);
      had += n;
      naive.waiting.erase(expected);
      taken_.push_back(queue_.take(expected));
      queue_.charge(*first, n);
      running.emplace_back(first, n);
    } else if (!naive.waiting.empty()) {
      const RequestId gone = naive.waiting.begin()->first;
      naive.waiting.erase(gone);
      ASSERT_NE(queue_.take(gone), nullptr);
    }
    if (!running.empty() && rng() % 2) {
      const std::size_t i = rng() % running.size();
      const auto [r, n_charged] = running[i];
      const auto n = static_cast<std::int32_t>(rng() % 60);
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      queue_.settle(*r, n);
      naive.served[{r->queue_entry.key.priority, r->queue_entry.key.tenant}] += n - n_charged;
    }
    ASSERT_EQ(queue_.size(), naive.waiting.size());
  }
}

}  // namespace
}  // namespace llamaherd

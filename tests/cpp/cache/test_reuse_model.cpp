#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cache/reuse_model.h"

namespace llamaherd {
namespace {

constexpr std::int64_t kTokens = 100;

struct Trace {
  const char* name;
  int n_hot;   // pieces used in each round
  int n_cold;  // new pieces per round, never used again
  std::int64_t capacity;
  bool hot_wins_later;  // against a cold one that came in half a mean gap after its last use
};

/// One piece of each kind behind a long trace of them.
struct Scores {
  ReuseModel model;
  std::vector<Usage> hot;
  Usage cold;

  explicit Scores(const Trace& t) : model(t.capacity), hot(t.n_hot) {
    for (int round = 0; round < 200; ++round) {
      for (Usage& usage : hot) model.touch(usage, kTokens);
      for (int i = 0; i < t.n_cold; ++i) {
        model.advance(kTokens);
        cold = {};
        model.touch(cold, kTokens);
      }
    }
  }
};

TEST(ReuseModel, WithoutAnyReuseTheOrderIsRecency) {
  ReuseModel model(1000);
  double last = -1;
  for (int i = 0; i < 1000; ++i) {
    model.advance(kTokens);
    Usage usage;
    model.touch(usage, kTokens);
    EXPECT_GT(usage.score, last);
    EXPECT_EQ(usage.score, static_cast<double>((i + 1) * kTokens));
    last = usage.score;
  }
  EXPECT_EQ(model.mean_gap(), 0);
}

TEST(ReuseModel, UsesCountWhereTheCacheIsSmallerThanTheTimeBetweenThem) {
  const Trace traces[] = {
      {"turned over ten times between two uses", 4, 50, 500, true},
      {"turned over once", 4, 50, 5000, true},
      {"all fits twenty times", 4, 50, 100000, false},
      {"all fits a thousand times", 4, 50, 5000000, false},
  };
  for (const Trace& trace : traces) {
    SCOPED_TRACE(trace.name);
    Scores scores(trace);
    const double gap = scores.model.mean_gap();
    EXPECT_NEAR(gap, trace.n_cold * kTokens, 0.01 * gap);
    scores.model.advance(static_cast<std::int64_t>(gap / 2));
    Usage fresh;
    scores.model.touch(fresh, kTokens);
    EXPECT_EQ(scores.hot[0].score > fresh.score, trace.hot_wins_later);
    EXPECT_GT(fresh.score, scores.cold.score);
  }
}

TEST(ReuseModel, UsesAreWorthNothingToACacheThatHoldsAll) {
  double last = INFINITY;
  for (const std::int64_t capacity : {100, 1000, 10000, 100000, 1000000, 100000000}) {
    const Scores scores({"", 2, 10, capacity, false});
    const double bonus = scores.hot[0].score - static_cast<double>(scores.hot[0].last_use);
    EXPECT_LT(bonus, last);
    EXPECT_GE(bonus, 0);
    last = bonus;
  }
  EXPECT_LT(last, 1);
}

TEST(ReuseModel, ManyUsesAreWorthNoMoreThanTheirLogarithm) {
  for (const std::int64_t capacity : {1, 1000, 100000}) {
    ReuseModel model(capacity);
    std::vector<Usage> hot(3);
    for (int round = 0; round < 2000; ++round) {
      for (Usage& usage : hot) {
        model.touch(usage, kTokens);
        const double g = model.mean_gap();
        const double u = g * g / (g + static_cast<double>(capacity));
        const double most = u * std::log2(static_cast<double>(usage.n_uses));
        const double bonus = usage.score - static_cast<double>(usage.last_use);
        ASSERT_LE(bonus, most * 1.0001);
        ASSERT_GE(bonus, 0);
      }
      for (int i = 0; i < 5; ++i) {
        model.advance(kTokens);
        Usage once;
        model.touch(once, kTokens);
        ASSERT_EQ(once.score, static_cast<double>(once.last_use)) << "log2(1) is 0";
      }
    }
  }
}

TEST(ReuseModel, UsesThatPredictNoFurtherUseCountNothing) {
  ReuseModel model(500);
  Usage last;
  for (int i = 0; i < 2000; ++i) {  // each is used exactly twice
    Usage usage;
    model.touch(usage, kTokens);
    model.advance(kTokens);
    model.touch(usage, kTokens);
    last = usage;
  }
  EXPECT_EQ(last.score, static_cast<double>(last.last_use));
}

TEST(ReuseModel, AScoreChangesOnlyWhenItsPieceIsUsed) {
  Scores scores({"", 4, 50, 500, true});
  const std::vector<Usage> before = scores.hot;
  for (int i = 0; i < 100; ++i) {
    Usage other;
    scores.model.advance(kTokens);
    scores.model.touch(other, kTokens);
    scores.model.grow(before[0], kTokens);
  }
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(scores.hot[i].score, before[i].score);
    EXPECT_EQ(scores.hot[i].n_uses, before[i].n_uses);
  }
}

}  // namespace
}  // namespace llamaherd

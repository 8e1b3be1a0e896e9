#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "cache_driver.h"

namespace llamaherd {
namespace {

TEST(RadixCache, SharesAtTheGranularityOfATokenInsideAnEdge) {
  CacheDriver d(CacheDriver::info(200, 8));
  const Tokens path = run_of(10, 50);
  d.leave(0, path);
  for (const Pos n : {1, 2, 25, 49, 50}) {
    Tokens prompt(path.begin(), path.begin() + n);
    prompt.push_back(99);
    EXPECT_EQ(d.n_held(prompt), n);
    const SeqId seq = d.start(0, prompt);
    EXPECT_EQ(d.length(seq), n);
    d.compute(seq, 1);
    d.finish(seq);
  }
  EXPECT_EQ(d.n_held({99}), 0);
  EXPECT_EQ(d.metrics().n_from_finished, 1 + 2 + 25 + 49 + 50);
  EXPECT_EQ(d.metrics().n_from_running, 0);
}

TEST(RadixCache, SharesWithWhoStillRuns) {
  CacheDriver d(CacheDriver::info(200, 8));
  const Tokens path = run_of(10, 40);
  const SeqId first = d.start(0, path);
  d.compute(first, 30);
  EXPECT_EQ(d.n_held(path), 30);
  EXPECT_EQ(d.cache->match(0, path).n_newly_pinned, 0);
  const SeqId second = d.start(0, path);
  EXPECT_EQ(d.length(second), 30);
  EXPECT_EQ(d.backend.n_cells_used(), 30);
  d.compute(first, 10);
  d.extend(second, {});
  d.finish(first);
  EXPECT_EQ(d.n_held(path), 40);
  EXPECT_EQ(d.metrics().n_from_running, 30);
}

TEST(RadixCache, ForksDivergeAndKeepTheirOwn) {
  CacheDriver d(CacheDriver::info(300, 8));
  const Tokens trunk = run_of(10, 60);
  const SeqId a = d.start(0, trunk + run_of(100, 20));
  d.compute(a, 80);
  const SeqId b = d.start(0, trunk + run_of(200, 20));
  EXPECT_EQ(d.length(b), 60);
  d.compute(b, 20);
  EXPECT_EQ(d.backend.n_cells_used(), 100);
  for (TokenId i = 0; i < 10; ++i) {
    d.extend(a, {300 + i});
    d.extend(b, {400 + i});
  }
  d.finish(a);
  d.finish(b);
  EXPECT_EQ(d.backend.n_cells_used(), 120);
  EXPECT_EQ(d.n_held(trunk + run_of(100, 20)), 80);
  EXPECT_EQ(d.n_held(trunk + run_of(200, 20)), 80);
}

TEST(RadixCache, DecodedTokensAddNoNodes) {
  CacheDriver d(CacheDriver::info(300, 8));
  const SeqId a = d.start(0, run_of(10, 20));
  d.compute(a, 20);
  const SeqId b = d.start(0, run_of(10, 20) + Tokens{7});
  d.compute(b, 1);
  d.extend(a, {8});
  const auto n_nodes = d.metrics().n_nodes;
  d.extend(a, run_of(500, 60));
  d.extend(b, run_of(600, 60));
  EXPECT_EQ(d.metrics().n_nodes, n_nodes);
}

TEST(RadixCache, WhatTwoComputedInOneCallIsHeldOnceAfterwards) {
  CacheDriver d(CacheDriver::info(200, 8));
  const Tokens trunk = run_of(10, 30);
  const SeqId a = d.start(0, trunk + run_of(100, 10));
  const SeqId b = d.start(0, trunk + run_of(200, 10));
  const SeqId c = d.start(0, trunk);
  d.decode(a, 40);
  d.decode(b, 40);
  d.decode(c, 30);
  EXPECT_EQ(d.backend.n_cells_used(), 110);
  for (const SeqId seq : {a, b, c}) d.publish(seq);
  d.check();
  EXPECT_EQ(d.backend.n_cells_used(), 50);
}

TEST(RadixCache, AdvanceTakesWhatOthersPublishedSince) {
  CacheDriver d(CacheDriver::info(200, 8));
  const Tokens path = run_of(10, 60);
  const SeqId a = d.start(0, path);
  const SeqId b = d.start(0, Tokens(path.begin(), path.begin() + 40) + run_of(90, 5));
  d.compute(a, 16);
  d.advance(b);
  EXPECT_EQ(d.length(b), 16);
  d.compute(a, 44);
  d.advance(b);
  EXPECT_EQ(d.length(b), 40);
  d.advance(b);
  EXPECT_EQ(d.length(b), 40);
  EXPECT_EQ(d.backend.n_cells_used(), 60);
  EXPECT_EQ(d.metrics().n_from_in_flight, 40);
}

TEST(RadixCache, WhatWasWaitedForCountsAsInFlight) {
  CacheDriver d(CacheDriver::info(200, 8));
  const Tokens path = run_of(10, 60);
  const SeqId a = d.start(0, path);
  d.compute(a, 60);
  std::vector<KvOp> ops;
  d.cache->attach(1, 0, path, 25, ops);
  const CacheMetrics m = d.metrics();
  EXPECT_EQ(m.n_from_in_flight, 35);
  EXPECT_EQ(m.n_from_running, 25);
}

TEST(RadixCache, TailsOfTheLeastRecentlyUsedGoFirst) {
  CacheDriver d(CacheDriver::info(400, 8));
  d.leave(0, run_of(10, 100));
  d.leave(0, run_of(20, 100));
  d.leave(0, run_of(30, 100));
  d.leave(0, run_of(40, 100));
  ASSERT_TRUE(d.room(1));
  EXPECT_EQ(d.n_held(run_of(10, 100)), 36) << "a piece of 64 from its tail";
  ASSERT_TRUE(d.room(120));
  EXPECT_EQ(d.n_held(run_of(10, 100)), 0);
  EXPECT_EQ(d.n_held(run_of(20, 100)), 36);
  EXPECT_EQ(d.n_held(run_of(30, 100)), 100);
  EXPECT_EQ(d.n_held(run_of(40, 100)), 100);
  EXPECT_EQ(d.metrics().n_evicted_for_cells, 164);
}

TEST(RadixCache, EvictionEndsAtABranchPointThatOthersNeed) {
  CacheDriver d(CacheDriver::info(200, 8));
  const Tokens trunk = run_of(10, 64);
  d.leave(0, trunk + run_of(100, 30));
  d.leave(0, trunk + run_of(200, 30));
  const SeqId seq = d.start(0, trunk + run_of(200, 30));
  ASSERT_TRUE(d.room(90));
  EXPECT_EQ(d.n_held(trunk + run_of(100, 30)), 64);
  EXPECT_EQ(d.n_held(trunk + run_of(200, 30)), 94);
  EXPECT_FALSE(d.room(150)) << "what runs never goes";
  EXPECT_EQ(d.length(seq), 94);
  d.finish(seq);
  EXPECT_TRUE(d.room(200));
  EXPECT_EQ(d.backend.n_cells_used(), 0);
}

TEST(RadixCache, PinnedGoesLastAndIsTrimmedOnlyUpToThePin) {
  CacheDriver d(CacheDriver::info(300, 8));
  const Tokens pinned = run_of(10, 40);
  d.cache->pin("it", 0, pinned, 0);
  d.leave(0, pinned + run_of(100, 60));
  d.leave(0, run_of(20, 100));
  d.leave(0, run_of(30, 100));
  ASSERT_TRUE(d.room(64));
  EXPECT_EQ(d.n_held(pinned + run_of(100, 60)), 40) << "the oldest, but for the pin";
  ASSERT_TRUE(d.room(260));
  EXPECT_EQ(d.n_held(pinned), 40);
  EXPECT_EQ(d.n_held(run_of(30, 100)), 0);
  ASSERT_TRUE(d.room(290));
  EXPECT_EQ(d.n_held(pinned), 0) << "nothing else was left";
}

TEST(RadixCache, PinsEndByNameAndByTime) {
  CacheDriver d(CacheDriver::info(200, 8));
  d.cache->pin("a", 0, run_of(10, 40), 100);
  d.cache->pin("b", 0, run_of(20, 40), 0);
  EXPECT_EQ(d.metrics().n_pins, 2);
  d.cache->pin("b", 0, run_of(30, 40), 0);
  EXPECT_EQ(d.metrics().n_pins, 2);
  d.cache->expire_pins(99);
  EXPECT_EQ(d.metrics().n_pins, 2);
  d.cache->expire_pins(100);
  EXPECT_EQ(d.metrics().n_pins, 1);
  EXPECT_FALSE(d.cache->unpin("a"));
  d.leave(0, run_of(30, 40));
  d.leave(0, run_of(10, 64));
  ASSERT_TRUE(d.room(150));
  EXPECT_EQ(d.n_held(run_of(30, 40)), 40);
  EXPECT_TRUE(d.cache->unpin("b"));
  ASSERT_TRUE(d.room(200));
  EXPECT_EQ(d.metrics().n_pins, 0);
}

TEST(RadixCache, WithoutAFreeTagTheLeafWorthLeastGoes) {
  CacheDriver d(CacheDriver::info(400, 2));
  const Tokens trunk = run_of(10, 50);
  d.leave(0, trunk + run_of(100, 20));
  d.leave(0, trunk + run_of(200, 20));
  d.leave(0, run_of(30, 40));
  EXPECT_EQ(d.n_held(trunk + run_of(100, 20)), 50) << "up to where the other branches off";
  EXPECT_EQ(d.n_held(trunk + run_of(200, 20)), 70);
  EXPECT_EQ(d.n_held(run_of(30, 40)), 40);
  EXPECT_EQ(d.metrics().n_evicted_for_holders, 20);
  EXPECT_EQ(d.metrics().n_holders_used, 2);
}

TEST(RadixCache, PinnedGoesLastForTagsToo) {
  CacheDriver d(CacheDriver::info(400, 2));
  d.cache->pin("it", 0, run_of(10, 50), 0);
  for (const TokenId first : {10, 100, 200, 300}) d.leave(0, run_of(first, 50));
  EXPECT_EQ(d.n_held(run_of(10, 50)), 50);
  EXPECT_EQ(d.n_held(run_of(300, 50)), 50);
}

TEST(RadixCache, WithoutAnyTagNothingIsKept) {
  CacheDriver d(CacheDriver::info(200, 0));
  const SeqId a = d.start(0, run_of(10, 50));
  d.compute(a, 50);
  const SeqId b = d.start(0, run_of(10, 50) + Tokens{3});
  EXPECT_EQ(d.length(b), 50);
  d.compute(b, 1);
  d.finish(a);
  EXPECT_EQ(d.length(b), 51);
  d.finish(b);
  EXPECT_EQ(d.backend.n_cells_used(), 0);
}

TEST(RadixCache, APathLongerThanTheCacheIsKeptAsFarAsItFits) {
  CacheDriver d(CacheDriver::info(100, 4));
  Tokens path = run_of(10, 150);
  const SeqId seq = d.start(0, path);
  d.compute(seq, 100);
  EXPECT_FALSE(d.room(1));
  d.finish(seq);
  EXPECT_EQ(d.n_held(path), 100);
  EXPECT_TRUE(d.room(20));
  EXPECT_EQ(d.n_held(path), 36);
}

TEST(RadixCache, SpacesNeverShare) {
  CacheDriver d(CacheDriver::info(300, 8));
  const Tokens path = run_of(10, 50);
  d.leave(1, path);
  EXPECT_EQ(d.n_held(path, 2), 0);
  const SeqId seq = d.start(2, path);
  EXPECT_EQ(d.length(seq), 0);
  d.compute(seq, 50);
  EXPECT_EQ(d.backend.n_cells_used(), 100);
  d.finish(seq);
  EXPECT_EQ(d.n_held(path, 1), 50);
  EXPECT_EQ(d.n_held(path, 2), 50);
}

TEST(RadixCache, APrivateSequenceSharesNothingAndLeavesNothing) {
  CacheDriver d(CacheDriver::info(300, 8));
  const Tokens path = run_of(10, 50);
  d.leave(0, path);
  const SeqId seq = d.start(std::nullopt, path);
  EXPECT_EQ(d.length(seq), 0);
  d.compute(seq, 50);
  d.advance(seq);
  EXPECT_EQ(d.length(seq), 50);
  EXPECT_EQ(d.backend.n_cells_used(), 100);
  EXPECT_EQ(d.cache->n_cells_needed(), 50);
  d.finish(seq);
  EXPECT_EQ(d.backend.n_cells_used(), 50);
}

TEST(RadixCache, ClearLeavesNothingButWhatRuns) {
  CacheDriver d(CacheDriver::info(300, 8));
  const Tokens trunk = run_of(10, 40);
  d.leave(0, trunk + run_of(100, 20));
  d.leave(1, run_of(30, 50));
  d.cache->pin("it", 1, run_of(30, 50), 0);
  const SeqId seq = d.start(0, trunk + run_of(200, 20));
  d.compute(seq, 10);
  d.clear();
  EXPECT_EQ(d.backend.n_cells_used(), 50);
  EXPECT_EQ(d.metrics().n_cells_reclaimable, 0);
  EXPECT_EQ(d.metrics().n_evicted_by_clear, 70);
  EXPECT_EQ(d.n_held(trunk), 40) << "of use while somebody runs on it";
  EXPECT_EQ(d.n_held(run_of(30, 50), 1), 0);
  d.compute(seq, 10);
  d.finish(seq);
  d.clear();
  EXPECT_EQ(d.backend.n_cells_used(), 0);
  EXPECT_EQ(d.metrics().n_nodes, 0);
}

TEST(RadixCache, GhostsAreBounded) {
  CacheDriver d(CacheDriver::info(100, 4));
  std::int32_t most = 0;
  for (TokenId i = 0; i < 500; ++i) {
    d.leave(0, run_of(1000 + 10 * i, 50));
    most = std::max(most, d.metrics().n_nodes);
  }
  EXPECT_GT(most, 16);
  EXPECT_LT(most, 80) << "16 tokens of them per cell";
}

TEST(RadixCache, AttachRefusesWhatIsNotHeld) {
  CacheDriver d(CacheDriver::info(100, 4));
  d.leave(0, run_of(10, 20));
  std::vector<KvOp> ops;
  EXPECT_THROW(d.cache->attach(0, 0, run_of(10, 20) + Tokens{5}, 0, ops), std::logic_error);
  EXPECT_THROW(d.cache->release(1, {}, ops), std::logic_error);
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "cache_driver.h"

namespace llamaherd {
namespace {

BackendInfo untrimmable(std::int32_t n_ctx, std::int32_t n_holders) {
  BackendInfo info = CacheDriver::info(n_ctx, n_holders);
  info.partial_removal = false;
  return info;
}

TEST(SnapshotCache, SharesWhereSomebodyStopped) {
  CacheDriver d(untrimmable(500, 8));
  const Tokens path = run_of(10, 100);
  const SeqId seq = d.start(0, path);
  d.compute(seq, 60, true);
  d.compute(seq, 40, true);
  EXPECT_EQ(d.n_held(path), 100);
  EXPECT_EQ(d.n_held(path + Tokens{3}), 100);
  EXPECT_EQ(d.n_held(Tokens(path.begin(), path.begin() + 90)), 60);
  EXPECT_EQ(d.n_held(Tokens(path.begin(), path.begin() + 59)), 0);
  EXPECT_EQ(d.backend.n_cells_used(), 100) << "a snapshot is a copy on write";
  d.finish(seq);
  EXPECT_EQ(d.backend.n_cells_used(), 100);
}

TEST(SnapshotCache, ForksDivergeAndKeepTheirOwn) {
  CacheDriver d(untrimmable(500, 8));
  const Tokens trunk = run_of(10, 60);
  d.leave(0, trunk);
  const SeqId a = d.start(0, trunk + run_of(100, 20));
  const SeqId b = d.start(0, trunk + run_of(200, 20));
  d.compute(a, 20, true);
  d.compute(b, 20, true);
  EXPECT_EQ(d.backend.n_cells_used(), 100);
  d.extend(a, run_of(300, 10));
  d.extend(b, run_of(400, 10));
  d.finish(a);
  d.finish(b);
  EXPECT_EQ(d.n_held(trunk + run_of(100, 20)), 80);
  EXPECT_EQ(d.n_held(trunk + run_of(100, 20) + run_of(300, 10)), 90);
  EXPECT_EQ(d.metrics().n_from_finished, 120);
}

TEST(SnapshotCache, SaysWherePromptsPart) {
  CacheDriver d(untrimmable(500, 8));
  const Tokens trunk = run_of(10, 60);
  d.leave(0, trunk + run_of(100, 20));
  EXPECT_EQ(d.cache->match(0, trunk + run_of(200, 20)).divergence_pos, 60);
  EXPECT_EQ(d.cache->match(1, trunk + run_of(200, 20)).divergence_pos, 0);
  EXPECT_EQ(d.cache->match(0, run_of(200, 20)).divergence_pos, 0);
  const Tokens barely(trunk.begin(), trunk.begin() + 10);
  EXPECT_EQ(d.cache->match(0, barely + run_of(200, 20)).divergence_pos, 0) << "not worth a stop";
}

TEST(SnapshotCache, OnlyTheLastChunkOfWhoRunsIsKept) {
  CacheDriver d(untrimmable(500, 8));
  const Tokens path = run_of(10, 120);
  const SeqId seq = d.start(0, path);
  for (int i = 0; i < 3; ++i) d.compute(seq, 30);
  EXPECT_EQ(d.metrics().n_holders_used, 1);
  EXPECT_EQ(d.n_held(path), 90);
  d.compute(seq, 30, true);
  EXPECT_EQ(d.metrics().n_holders_used, 1);
  d.extend(seq, run_of(300, 20));
  EXPECT_EQ(d.metrics().n_holders_used, 1) << "decoded tokens take none";
  d.finish(seq);
  EXPECT_EQ(d.metrics().n_holders_used, 2);
}

TEST(SnapshotCache, AChunkThatWasUsedStays) {
  CacheDriver d(untrimmable(500, 8));
  const Tokens path = run_of(10, 120);
  const SeqId a = d.start(0, path);
  d.compute(a, 60);
  const SeqId b = d.start(0, path);
  EXPECT_EQ(d.length(b), 60);
  d.compute(a, 60);
  EXPECT_EQ(d.n_held(Tokens(path.begin(), path.begin() + 80)), 60);
  EXPECT_EQ(d.metrics().n_from_running, 60);
}

TEST(SnapshotCache, ADroppedSequenceGoesOnFromASnapshot) {
  CacheDriver d(untrimmable(500, 8));
  const Tokens path = run_of(10, 120);
  const SeqId seq = d.start(0, path);
  d.compute(seq, 60, true);
  d.compute(seq, 30);
  d.drop(seq);
  d.advance(seq);
  EXPECT_EQ(d.length(seq), 90);
  d.compute(seq, 30, true);
  d.finish(seq);
}

TEST(SnapshotCache, TheLeastRecentlyUsedGoesForCellsAndForTags) {
  CacheDriver d(untrimmable(400, 3));
  for (TokenId i = 1; i <= 4; ++i) d.leave(0, run_of(100 * i, 80));
  EXPECT_EQ(d.n_held(run_of(100, 80)), 0);
  EXPECT_EQ(d.metrics().n_evicted_for_holders, 80);
  ASSERT_TRUE(d.room(200));
  EXPECT_EQ(d.n_held(run_of(200, 80)), 0);
  EXPECT_EQ(d.n_held(run_of(400, 80)), 80);
  EXPECT_EQ(d.metrics().n_evicted_for_cells, 80);
}

TEST(SnapshotCache, PinnedGoesLast) {
  CacheDriver d(untrimmable(400, 3));
  d.cache->pin("it", 0, run_of(100, 80), 50);
  for (TokenId i = 1; i <= 5; ++i) d.leave(0, run_of(100 * i, 80));
  EXPECT_EQ(d.n_held(run_of(100, 80)), 80);
  ASSERT_TRUE(d.room(320));
  EXPECT_EQ(d.n_held(run_of(100, 80)), 80);
  d.cache->expire_pins(50);
  EXPECT_EQ(d.metrics().n_pins, 0);
  ASSERT_TRUE(d.room(400));
  EXPECT_EQ(d.backend.n_cells_used(), 0);
}

TEST(SnapshotCache, WhatRunsNeverGoes) {
  CacheDriver d(untrimmable(200, 4));
  const SeqId seq = d.start(0, run_of(10, 150));
  d.compute(seq, 150, true);
  EXPECT_FALSE(d.room(60));
  EXPECT_EQ(d.length(seq), 150);
  d.clear();
  EXPECT_EQ(d.backend.n_cells_used(), 150);
  EXPECT_EQ(d.metrics().n_nodes, 0);
  d.finish(seq);
}

TEST(SnapshotCache, SpacesAndPrivateSequencesShareNothing) {
  CacheDriver d(untrimmable(400, 4));
  const Tokens path = run_of(10, 50);
  d.leave(1, path);
  EXPECT_EQ(d.n_held(path, 2), 0);
  const SeqId seq = d.start(std::nullopt, path);
  EXPECT_EQ(d.length(seq), 0);
  d.compute(seq, 50, true);
  d.finish(seq);
  EXPECT_EQ(d.backend.n_cells_used(), 50);
  EXPECT_EQ(d.metrics().n_holders_used, 1);
}

TEST(SnapshotCache, WithoutTagsNothingIsKept) {
  CacheDriver d(untrimmable(400, 0));
  d.leave(0, run_of(10, 50));
  EXPECT_EQ(d.backend.n_cells_used(), 0);
}

TEST(SnapshotCache, AttachRefusesWhatIsNotHeld) {
  CacheDriver d(untrimmable(100, 4));
  d.leave(0, run_of(10, 20));
  std::vector<KvOp> ops;
  EXPECT_THROW(d.cache->attach(0, 0, run_of(10, 19), 0, ops), std::logic_error);
  EXPECT_THROW(d.cache->release(1, {}, ops), std::logic_error);
}

}  // namespace
}  // namespace llamaherd

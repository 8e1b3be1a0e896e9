#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "cache_driver.h"

namespace llamaherd {
namespace {

constexpr std::int64_t kTokenBytes = CacheDriver::kTokenBytes;

class RadixTiers : public ::testing::Test {
 protected:
  CacheOptions with_ram(std::int64_t n_tokens) {
    CacheOptions options;
    options.max_ram_bytes = n_tokens * kTokenBytes;
    return options;
  }
  CacheOptions with_disk(std::int64_t n_ram_tokens, std::int64_t n_disk_bytes = 1 << 24) {
    CacheOptions options = with_ram(n_ram_tokens);
    options.disk_folder = folder_.path();
    options.max_disk_bytes = n_disk_bytes;
    return options;
  }

  TempFolder folder_;
};

TEST_F(RadixTiers, WhatIsEvictedComesBackFromHostMemory) {
  CacheDriver d(CacheDriver::info(200, 8), with_ram(1000));
  const Tokens path = run_of(10, 150);
  d.leave(0, path);
  ASSERT_TRUE(d.room(200));
  EXPECT_EQ(d.n_held(path), 0);
  EXPECT_EQ(d.n_restorable(path), 150);
  EXPECT_EQ(d.metrics().n_bytes_ram, 150 * kTokenBytes);
  const SeqId seq = d.start(0, path + Tokens{3});
  while (d.restore(seq)) {
  }
  EXPECT_EQ(d.length(seq), 150);
  d.compute(seq, 1);
  EXPECT_EQ(d.metrics().n_bytes_ram, 0) << "moved, not copied";
  EXPECT_EQ(d.metrics().n_from_ram, 150);
  EXPECT_EQ(d.metrics().n_saved, 150);
}

TEST_F(RadixTiers, APromptThatPartsInsideABlockTakesItsBeginning) {
  CacheDriver d(CacheDriver::info(1000, 8), with_ram(10000));
  const Tokens path = run_of(10, 600);
  d.leave(0, path);
  ASSERT_TRUE(d.room(1000));
  const Tokens prompt = Tokens(path.begin(), path.begin() + 300) + run_of(90, 20);
  EXPECT_EQ(d.n_restorable(prompt), 300);
  const SeqId seq = d.start(0, prompt);
  while (d.restore(seq)) {
  }
  EXPECT_EQ(d.length(seq), 300);
  d.compute(seq, 20);
  EXPECT_EQ(d.n_restorable(path), 600) << "the rest can still be restored";
  d.finish(seq);
  d.leave(0, path);
  EXPECT_EQ(d.n_held(path), 600);
}

TEST_F(RadixTiers, WhatIsNotWorthLoadingIsComputed) {
  CacheOptions options = with_ram(1000);
  options.costs.load_token_ns = 2 * options.costs.prefill_token_ns;
  CacheDriver d(CacheDriver::info(200, 8), options);
  d.leave(0, run_of(10, 150));
  ASSERT_TRUE(d.room(200));
  EXPECT_EQ(d.n_restorable(run_of(10, 150)), 0);
}

TEST_F(RadixTiers, FullHostMemoryDropsTheLowestAndStaysBounded) {
  CacheDriver d(CacheDriver::info(200, 8), with_ram(300));
  for (TokenId i = 0; i < 8; ++i) d.leave(0, run_of(100 * (i + 1), 100));
  ASSERT_TRUE(d.room(200));
  EXPECT_LE(d.metrics().n_bytes_ram, 300 * kTokenBytes);
  EXPECT_GT(d.metrics().n_dropped_ram, 400);
  EXPECT_EQ(d.n_restorable(run_of(100, 100)), 0);
  EXPECT_EQ(d.n_restorable(run_of(800, 100)), 100);
}

TEST_F(RadixTiers, WithoutATagTheLeafMovesToHostMemory) {
  CacheDriver d(CacheDriver::info(400, 2), with_ram(1000));
  for (TokenId i = 0; i < 4; ++i) d.leave(0, run_of(100 * (i + 1), 60));
  EXPECT_EQ(d.metrics().n_evicted_for_holders, 120);
  EXPECT_EQ(d.n_held(run_of(100, 60)), 0);
  EXPECT_EQ(d.n_restorable(run_of(100, 60)), 60);
  d.leave(0, run_of(100, 60));
  EXPECT_EQ(d.metrics().n_from_ram, 60);
}

TEST_F(RadixTiers, WhatHostMemoryCannotHoldGoesToDisk) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(150));
  for (TokenId i = 0; i < 6; ++i) d.leave(0, run_of(100 * (i + 1), 100));
  ASSERT_TRUE(d.room(200));
  EXPECT_GT(d.metrics().n_bytes_disk, 0);
  EXPECT_EQ(d.metrics().n_dropped_ram, 0);
  EXPECT_EQ(d.metrics().n_dropped_disk, 0);
  for (TokenId i = 0; i < 6; ++i) {
    EXPECT_EQ(d.n_restorable(run_of(100 * (i + 1), 100)), 100);
    d.leave(0, run_of(100 * (i + 1), 100));
  }
  EXPECT_EQ(d.metrics().n_damaged, 0);
  EXPECT_GT(d.metrics().n_from_disk, 300);
}

TEST_F(RadixTiers, AFullDiskForgetsTheLowest) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(0, 64 * 1024 + 4000));
  for (TokenId i = 0; i < 12; ++i) d.leave(0, run_of(100 * (i + 1), 100));
  ASSERT_TRUE(d.room(200));
  EXPECT_GT(d.metrics().n_dropped_disk, 0);
  EXPECT_LE(d.metrics().n_bytes_disk, 64 * 1024 + 4000);
  EXPECT_EQ(d.n_restorable(run_of(100, 100)), 0);
  EXPECT_EQ(d.n_restorable(run_of(1200, 100)), 100);
}

TEST_F(RadixTiers, ADiskThatTakesNothingIsNoneAtAll) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(0, 100));
  for (TokenId i = 0; i < 4; ++i) d.leave(0, run_of(100 * (i + 1), 100));
  ASSERT_TRUE(d.room(200));
  for (TokenId i = 0; i < 4; ++i) EXPECT_EQ(d.n_restorable(run_of(100 * (i + 1), 100)), 0);
  EXPECT_EQ(d.metrics().n_bytes_disk, 0);
  EXPECT_EQ(d.metrics().n_damaged, 0);
  d.leave(0, run_of(100, 100));
  EXPECT_EQ(d.metrics().n_from_disk, 0);
  EXPECT_EQ(d.n_held(run_of(100, 100)), 100) << "memory goes on holding prefixes";
}

TEST_F(RadixTiers, AFolderThatGoesAwayCostsOnlyWhatWasInIt) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(0));
  d.leave(0, run_of(10, 100));
  ASSERT_TRUE(d.room(200));
  std::filesystem::remove_all(folder_.path());
  const SeqId seq = d.start(0, run_of(10, 100));
  EXPECT_FALSE(d.restore(seq));
  EXPECT_EQ(d.n_restorable(run_of(10, 100)), 0);
  d.compute(seq, 100);
  d.finish(seq);
  ASSERT_TRUE(d.room(200));
  EXPECT_EQ(d.n_restorable(run_of(10, 100)), 0) << "it cannot be written";
  EXPECT_EQ(d.metrics().n_damaged, 1);
}

TEST_F(RadixTiers, ADamagedFileIsComputedAnew) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(0));
  const Tokens path = run_of(10, 100);
  d.leave(0, path);
  ASSERT_TRUE(d.room(200));
  ASSERT_GT(folder_.n_files(), 0u);
  folder_.damage();
  const SeqId seq = d.start(0, path);
  while (d.restore(seq)) {
  }
  EXPECT_GT(d.n_left(seq), 0);
  EXPECT_EQ(d.metrics().n_damaged, 1);
  d.compute(seq, d.n_left(seq));
  d.finish(seq);
  EXPECT_EQ(d.n_held(path), 100);
}

TEST_F(RadixTiers, ABlockThatCannotBeLoadedIsForgotten) {
  CacheDriver d(CacheDriver::info(200, 8), with_ram(1000));
  const Tokens path = run_of(10, 100);
  d.leave(0, path);
  ASSERT_TRUE(d.room(200));
  const SeqId seq = d.start(0, path);
  auto piece = d.cache->next_restore(seq, path);
  ASSERT_TRUE(piece);
  d.cache->restored(seq, *piece, false);
  piece.reset();
  d.check();
  EXPECT_LT(d.n_restorable(path), 100);
  EXPECT_EQ(d.metrics().n_damaged, 1);
}

TEST_F(RadixTiers, ARestartFindsWhatWasFlushed) {
  const Tokens trunk = run_of(10, 300);
  const Tokens a = trunk + run_of(100, 40), b = trunk + run_of(200, 40);
  {
    CacheDriver d(CacheDriver::info(600, 8), with_disk(100));
    d.leave(0, a);
    d.leave(0, b);
    d.leave(5, run_of(700, 50));
    d.flush();
  }
  CacheDriver d(CacheDriver::info(600, 8), with_disk(100));
  d.check();
  EXPECT_EQ(d.n_restorable(a), 340);
  EXPECT_EQ(d.n_restorable(b), 340);
  EXPECT_EQ(d.n_restorable(run_of(700, 50), 5), 50);
  EXPECT_EQ(d.n_restorable(run_of(700, 50), 0), 0);
  d.leave(0, b);
  EXPECT_EQ(d.metrics().n_from_disk, 340);
  EXPECT_EQ(d.n_held(b), 340);
}

TEST_F(RadixTiers, AFlushToASmallDiskKeepsTheBooksAndTheBest) {
  const CacheOptions options = with_disk(0, 64 * 1024 + 2500);
  {
    CacheDriver d(CacheDriver::info(1000, 8), options);
    for (TokenId i = 1; i <= 8; ++i) d.leave(0, run_of(100 * i, 100));
    d.flush();
    d.check();
  }
  CacheDriver d(CacheDriver::info(1000, 8), options);
  EXPECT_EQ(d.n_restorable(run_of(800, 100)), 100);
}

TEST_F(RadixTiers, AnotherFingerprintFindsNothing) {
  CacheOptions options = with_disk(0);
  options.fingerprint = "one";
  {
    CacheDriver d(CacheDriver::info(200, 8), options);
    d.leave(0, run_of(10, 100));
    d.flush();
  }
  options.fingerprint = "two";
  CacheDriver d(CacheDriver::info(200, 8), options);
  EXPECT_EQ(d.n_restorable(run_of(10, 100)), 0);
}

TEST_F(RadixTiers, ADamagedRestartComputesWhatIsLost) {
  {
    CacheDriver d(CacheDriver::info(600, 8), with_disk(0));
    d.leave(0, run_of(10, 500));
    d.flush();
  }
  folder_.damage();
  CacheDriver d(CacheDriver::info(600, 8), with_disk(0));
  d.leave(0, run_of(10, 500));
  EXPECT_EQ(d.n_held(run_of(10, 500)), 500);
}

TEST_F(RadixTiers, ClearForgetsTheLowerTiersToo) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(150));
  for (TokenId i = 0; i < 6; ++i) d.leave(0, run_of(100 * (i + 1), 100));
  const SeqId seq = d.start(0, run_of(700, 30));
  d.compute(seq, 30);
  d.clear();
  EXPECT_EQ(d.metrics().n_bytes_ram, 0);
  EXPECT_EQ(d.metrics().n_bytes_disk, 0);
  EXPECT_EQ(folder_.n_files(), 0u);
  EXPECT_EQ(d.backend.n_cells_used(), 30);
  d.finish(seq);
}

// A shared file copy of what runs is gone as well.
TEST_F(RadixTiers, WhatRunsThroughAClearIsSavedAgain) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(0));
  const Tokens path = run_of(10, 100);
  d.leave(0, path);
  ASSERT_TRUE(d.room(200));
  const SeqId seq = d.start(0, path);
  while (d.restore(seq)) {
  }
  ASSERT_EQ(d.length(seq), 100);
  d.clear();
  d.finish(seq);
  ASSERT_TRUE(d.room(200));
  d.leave(0, path);
  EXPECT_EQ(d.metrics().n_damaged, 0);
  EXPECT_GE(d.metrics().n_from_disk, 185);  // a tail of less than 16 tokens is not saved
}

TEST_F(RadixTiers, SpacesNeverShareInAnyTier) {
  CacheDriver d(CacheDriver::info(200, 8), with_disk(50));
  const Tokens path = run_of(10, 100);
  d.leave(1, path);
  ASSERT_TRUE(d.room(200));
  EXPECT_EQ(d.n_restorable(path, 1), 100);
  EXPECT_EQ(d.n_restorable(path, 2), 0);
}

// To bring it back needs cells, whose data takes its place.
TEST_F(RadixTiers, MakingRoomForAPieceMayDropIt) {
  CacheDriver d(CacheDriver::info(100, 8), with_ram(100));
  d.leave(0, run_of(10, 100));
  d.leave(0, run_of(20, 100));
  ASSERT_EQ(d.n_restorable(run_of(10, 100)), 100);
  d.leave(0, run_of(10, 100));
  EXPECT_EQ(d.n_held(run_of(10, 100)), 100);
}

TEST_F(RadixTiers, MakingRoomForAPieceMayMoveItToDisk) {
  CacheDriver d(CacheDriver::info(100, 8), with_disk(100));
  d.leave(0, run_of(10, 100));
  d.leave(0, run_of(20, 100));
  ASSERT_EQ(d.n_restorable(run_of(10, 100)), 100);
  d.leave(0, run_of(10, 100));
  EXPECT_EQ(d.n_held(run_of(10, 100)), 100);
  EXPECT_EQ(d.metrics().n_damaged, 0);
}

// Decoding what is held already, token by token, must not leave pieces too short to be saved.
TEST_F(RadixTiers, AnOutputGeneratedTwiceIsStillSaved) {
  CacheDriver d(CacheDriver::info(300, 8), with_ram(1000));
  const Tokens prompt = run_of(10, 50), output = run_of(100, 60);
  for (int i = 0; i < 2; ++i) {
    const SeqId seq = d.start(0, prompt);
    if (d.n_left(seq) > 0) d.compute(seq, d.n_left(seq));
    d.extend(seq, output);
    d.finish(seq);
  }
  ASSERT_TRUE(d.room(300));
  EXPECT_GE(d.n_restorable(prompt + output), 110 - 16);
}

TEST_F(RadixTiers, AnOutputGeneratedTwiceAddsFewNodes) {
  CacheDriver d(CacheDriver::info(300, 8));
  const Tokens prompt = run_of(10, 50), output = run_of(100, 60);
  for (int i = 0; i < 2; ++i) {
    const SeqId seq = d.start(0, prompt);
    if (d.n_left(seq) > 0) d.compute(seq, d.n_left(seq));
    d.extend(seq, output);
    d.finish(seq);
  }
  EXPECT_LE(d.metrics().n_nodes, 4);
}

}  // namespace
}  // namespace llamaherd

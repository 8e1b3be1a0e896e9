#include <gtest/gtest.h>

#include <stdexcept>

#include "cache/sequence_id_pool.h"

namespace llamaherd {
namespace {

TEST(SequenceIdPool, GivesTheLowestFreeId) {
  SequenceIdPool pool(3);
  EXPECT_EQ(pool.acquire(), 0);
  EXPECT_EQ(pool.acquire(), 1);
  EXPECT_EQ(pool.acquire(), 2);
  EXPECT_EQ(pool.n_free(), 0);
  pool.release(1);
  pool.release(0);
  EXPECT_EQ(pool.n_free(), 2);
  EXPECT_FALSE(pool.in_use(0));
  EXPECT_TRUE(pool.in_use(2));
  EXPECT_EQ(pool.acquire(), 0);
  EXPECT_EQ(pool.acquire(), 1);
}

TEST(SequenceIdPool, RefusesWithoutAFreeId) {
  SequenceIdPool pool(1);
  pool.acquire();
  EXPECT_THROW(pool.acquire(), std::logic_error);
  pool.release(0);
  EXPECT_EQ(pool.acquire(), 0);
}

TEST(SequenceIdPool, RefusesToReleaseAFreeSequence) {
  SequenceIdPool pool(2);
  EXPECT_THROW(pool.release(0), std::logic_error);
}

}  // namespace
}  // namespace llamaherd

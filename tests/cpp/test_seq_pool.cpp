#include <gtest/gtest.h>

#include <stdexcept>

#include "seq_pool.h"

namespace llamaherd {
namespace {

TEST(SeqPool, GivesTheLowestFreeId) {
  SeqPool pool(3, 100);
  EXPECT_EQ(pool.acquire(10), 0);
  EXPECT_EQ(pool.acquire(10), 1);
  EXPECT_EQ(pool.acquire(10), 2);
  pool.release(1);
  pool.release(0);
  EXPECT_EQ(pool.acquire(10), 0);
  EXPECT_EQ(pool.acquire(10), 1);
}

TEST(SeqPool, RefusesWithoutAFreeId) {
  SeqPool pool(1, 100);
  EXPECT_TRUE(pool.can_acquire(1));
  pool.acquire(1);
  EXPECT_FALSE(pool.can_acquire(1));
  EXPECT_THROW(pool.acquire(1), std::logic_error);
}

TEST(SeqPool, PromisesNoCellTwice) {
  SeqPool pool(4, 100);
  pool.acquire(60);
  EXPECT_TRUE(pool.can_acquire(40));
  EXPECT_FALSE(pool.can_acquire(41));
  EXPECT_THROW(pool.acquire(41), std::logic_error);
  pool.acquire(40);
  EXPECT_FALSE(pool.can_acquire(1));
  EXPECT_EQ(pool.n_cells_reserved(), 100);
}

TEST(SeqPool, CountsUsedCellsAsLengthsChange) {
  SeqPool pool(2, 100);
  const SeqId a = pool.acquire(50), b = pool.acquire(50);
  pool.set_length(a, 30);
  pool.set_length(b, 50);
  EXPECT_EQ(pool.n_cells_used(), 80);
  pool.set_length(a, 10);
  EXPECT_EQ(pool.n_cells_used(), 60);
  EXPECT_EQ(pool.length(a), 10);
  pool.release(b);
  EXPECT_EQ(pool.n_cells_used(), 10);
  EXPECT_EQ(pool.n_cells_reserved(), 50);
  EXPECT_EQ(pool.n_seqs_in_use(), 1);
  EXPECT_FALSE(pool.in_use(b));
}

TEST(SeqPool, AReusedIdStartsEmpty) {
  SeqPool pool(1, 100);
  pool.set_length(pool.acquire(50), 20);
  pool.release(0);
  EXPECT_EQ(pool.length(pool.acquire(5)), 0);
}

TEST(SeqPool, RefusesALengthBeyondThePromise) {
  SeqPool pool(1, 100);
  const SeqId seq = pool.acquire(10);
  pool.set_length(seq, 10);
  EXPECT_THROW(pool.set_length(seq, 11), std::logic_error);
  EXPECT_EQ(pool.n_cells_used(), 10);
}

TEST(SeqPool, RefusesToTouchAFreeSequence) {
  SeqPool pool(2, 100);
  EXPECT_THROW(pool.release(0), std::logic_error);
  EXPECT_THROW(pool.set_length(0, 0), std::logic_error);
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <string>

#include "error.h"
#include "support.h"
#include "warmup.h"

namespace llamaherd {
namespace {

constexpr double kForEver = 1e9;

TEST(Warmup, RunsEachShapeOnceAndLeavesTheCacheEmpty) {
  HerdOptions options = small_herd();
  options.fake.info.n_seqs = 6;
  FakeBackend backend(options.fake);
  warm_up(backend, kForEver);
  EXPECT_EQ(backend.n_calls(), 5);  // 1, 2, 4 and 6 decode rows, and a prefill chunk
  EXPECT_EQ(backend.n_cells_used(), 0);
  EXPECT_EQ(backend.n_refused(), 0);
}

TEST(Warmup, ASingleSequenceIsNotRunTwice) {
  HerdOptions options = small_herd();
  options.fake.info.n_seqs = 1;
  FakeBackend backend(options.fake);
  warm_up(backend, kForEver);
  EXPECT_EQ(backend.n_calls(), 2);
}

TEST(Warmup, ThePrefillChunkFitsASmallCache) {
  HerdOptions options = small_herd();
  options.fake.info.n_ctx = 5;
  FakeBackend backend(options.fake);
  warm_up(backend, kForEver);
  EXPECT_EQ(backend.n_refused(), 0);
}

TEST(Warmup, StopsWhereThereIsNoTime) {
  FakeBackend backend(small_herd().fake);
  warm_up(backend, -1);
  EXPECT_EQ(backend.n_calls(), 0);
}

TEST(Warmup, AFailedCallIsALoadErrorThatSaysWhy) {
  for (Fault::Kind kind : {Fault::Kind::kStatus, Fault::Kind::kThrow}) {
    HerdOptions options = small_herd();
    options.fake.faults[1] = {kind, DecodeStatus::kFailed, 1};
    FakeBackend backend(options.fake);
    try {
      warm_up(backend, kForEver);
      FAIL();
    } catch (const ModelLoadError& error) {
      const std::string why = kind == Fault::Kind::kThrow ? "scripted" : "it was refused";
      EXPECT_EQ(error.what(), "the model cannot decode 2 rows: " + why);
    }
  }
}

}  // namespace
}  // namespace llamaherd

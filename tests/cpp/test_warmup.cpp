#include <gtest/gtest.h>

#include <string>

#include "error.h"
#include "support.h"
#include "warmup.h"

namespace llamaherd {
namespace {

constexpr double kForEver = 1e9;

TEST(Warmup, RunsEachShapeAndLeavesTheCacheEmpty) {
  HerdOptions options = small_herd();
  options.fake.info.n_seqs = 6;
  FakeBackend backend(options.fake);
  warm_up(backend, kForEver);
  // 1, 2, 4 and 6 decode rows, and a prefill chunk; to measure, 1 row and the chunk again.
  EXPECT_EQ(backend.n_calls(), 7);
  EXPECT_EQ(backend.n_saves(), 1);
  EXPECT_EQ(backend.n_loads(), 1);
  EXPECT_EQ(backend.n_cells_used(), 0);
  EXPECT_EQ(backend.n_refused(), 0);
}

TEST(Warmup, ASingleSequenceIsNotRunTwice) {
  HerdOptions options = small_herd();
  options.fake.info.n_seqs = 1;
  FakeBackend backend(options.fake);
  warm_up(backend, kForEver);
  EXPECT_EQ(backend.n_calls(), 4);
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

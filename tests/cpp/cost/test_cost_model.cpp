#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "cost/cost_model.h"

namespace llamaherd {
namespace {

double ns(const CostModel& model, std::int32_t n_rows) { return model.call_ns({n_rows}); }

TEST(CostModel, IsLinearBetweenKnownPoints) {
  const CostModel model(Calibration{{{1, 100}, {4, 160}, {64, 1000}, {512, 5000}}});
  EXPECT_DOUBLE_EQ(ns(model, 1), 100);
  EXPECT_DOUBLE_EQ(ns(model, 2), 120);
  EXPECT_DOUBLE_EQ(ns(model, 4), 160);
  EXPECT_DOUBLE_EQ(ns(model, 34), 580);
  EXPECT_NEAR(ns(model, 288), 3000, 1e-6);
  EXPECT_NEAR(ns(model, 300), 3000 + 12 * 4000 / 448.0, 1e-6);
}

TEST(CostModel, BeyondTheLastPointRowsCostWhatTheyDoThere) {
  const CostModel model(Calibration{{{2, 100}, {64, 640}}});
  EXPECT_DOUBLE_EQ(ns(model, 1), 100);
  EXPECT_DOUBLE_EQ(ns(model, 1024), 10240);
  EXPECT_GT(ns(model, 1 << 20), ns(model, 1 << 15));
}

TEST(CostModel, AttentionIsAddedByTheKindOfCall) {
  Calibration calibration{{{1, 100}, {512, 5000}}};
  calibration.few = {3, 0.5};
  calibration.many = {1, 0.25};
  const CostModel model(calibration);
  EXPECT_DOUBLE_EQ(model.call_ns({1, 100, 400}), 100 + 300 + 200);
  EXPECT_DOUBLE_EQ(model.call_ns({64, 100, 400}) - model.call_ns({64}), 100 + 100);
}

TEST(CostModel, ATileOfRowsPaysForAllCellsItsRowsSee) {
  ShapeSum few;
  for (Pos begin : {100, 200}) few.add(begin, 1);
  few.add(50, 10);
  EXPECT_DOUBLE_EQ(few.shape(1000).n_attended, 100 + 200 + 550);
  EXPECT_DOUBLE_EQ(few.shape(1000).n_scanned, 12 * 1000);
  few.add(0, 52);
  EXPECT_DOUBLE_EQ(few.shape(1000).n_attended, 100 + 200 + 550 + 52 * 26);
  EXPECT_DOUBLE_EQ(few.shape(1000).n_beside, 63 * 300 + 2 * 50);
  few.pad(4);
  EXPECT_EQ(few.shape(1000).n_rows, 68);

  ShapeSum guessing;
  for (Pos begin : {100, 200}) guessing.add(begin, 1);
  guessing.draft(200, 3);
  EXPECT_EQ(guessing.n_decode_rows(), 2);
  EXPECT_DOUBLE_EQ(guessing.shape(1000).n_attended, 100 + 4 * 200);
  EXPECT_DOUBLE_EQ(guessing.shape(1000).n_scanned, 5 * 1000);
  EXPECT_EQ(guessing.shape(1000).n_beside, 0);
  guessing.draft(100, 60);
  EXPECT_DOUBLE_EQ(guessing.shape(1000).n_attended + guessing.shape(1000).n_beside, 2 * 64 * 300);
}

TEST(CostModel, WhatTheRowsOfATileSeeCostsThatOnlyWhereThereAreTiles) {
  Calibration calibration{{{1, 100}, {64, 6400}}, {3, 0}, {2, 0}};
  const CallShape apart{64, 100, 0, 0}, beside{64, 100, 0, 50};
  const CostModel tiles(calibration, true), rows(calibration, false);
  EXPECT_DOUBLE_EQ(tiles.call_ns(beside) - tiles.call_ns(apart), 2 * 50);
  EXPECT_DOUBLE_EQ(rows.call_ns(beside), rows.call_ns(apart));
}

TEST(CostModel, WhatSlowsAllCallsDoesNotChangeTheirRatios) {
  CostModel model(Calibration{{{1, 100}, {4, 160}, {64, 1000}}});
  for (int i = 0; i < 30; ++i) model.observe({4}, 480);
  EXPECT_NEAR(ns(model, 4), 480, 5);
  EXPECT_NEAR(ns(model, 1) / ns(model, 4), 100.0 / 160, 0.1);
  EXPECT_NEAR(model.pace(), 3, 0.4);
  for (int i = 0; i < 30; ++i) model.observe({4}, 160);
  EXPECT_NEAR(ns(model, 1), 100, 10);
}

TEST(CostModel, OneInterruptedCallChangesLittle) {
  CostModel model(Calibration{{{1, 100}, {4, 160}, {64, 1000}}});
  model.observe({4}, 16000);
  EXPECT_LT(ns(model, 4), 160 * 1.3);
}

TEST(CostModel, WhatIsOnlyInterpolatedIsLearnedAtOnce) {
  CostModel model(Calibration{{{1, 100}, {8, 800}}});
  const auto version = model.version();
  model.observe({4}, 1200);
  EXPECT_DOUBLE_EQ(ns(model, 4), 1200);
  EXPECT_DOUBLE_EQ(ns(model, 8), 800);
  EXPECT_DOUBLE_EQ(ns(model, 6), 1000);
  EXPECT_NE(model.version(), version);
}

/// A machine with a crooked curve, attention and noise, on which calls of all shapes run.
TEST(CostModel, LearnsACrookedCurveAndAttentionUnderNoise) {
  std::mt19937 rng(5);
  std::lognormal_distribution<double> noise(0, 0.1);
  const auto truth = [](const CallShape& shape) {
    return 1e6 * shape.n_rows * (shape.n_rows % 4 == 0 ? 0.5 : 1.0) + 1500 * shape.n_attended;
  };
  Calibration rough{{{1, 1e6}, {2, 2e6}, {4, 3e6}, {8, 3e6}}};
  rough.few = {500, 1};
  CostModel model(rough);
  for (int i = 0; i < 4000; ++i) {
    const std::int32_t n = 1 + static_cast<std::int32_t>(rng() % 8);
    const CallShape shape{n, n * static_cast<double>(rng() % 1000), n * 1000.0};
    model.observe(shape, truth(shape) * noise(rng));
  }
  for (std::int32_t n = 1; n <= 8; ++n) {
    for (const double depth : {0.0, 500.0, 1000.0}) {
      const CallShape shape{n, n * depth, n * 1000.0};
      EXPECT_NEAR(model.call_ns(shape) / truth(shape), 1, 0.3) << n << " rows at " << depth;
    }
  }
}

TEST(CostModel, WithoutACalibrationTheFirstCallsAreBelieved) {
  CostModel model;
  EXPECT_GT(ns(model, 8), ns(model, 1));
  model.observe({8}, 800);
  EXPECT_NEAR(ns(model, 8), 800, 1);
  EXPECT_NEAR(ns(model, 16), 1600, 1);
  model.observe({1}, 300);
  EXPECT_NEAR(ns(model, 1), 300, 1);
  EXPECT_NEAR(ns(model, 8), 800, 1);
  EXPECT_EQ(model.pace(), 1);
  EXPECT_EQ(model.calibration().points.size(), 2u);
}

TEST(CostModel, GivesBackWhatItWasMadeOf) {
  Calibration calibration{{{1, 100}, {4, 160}, {512, 9000}}};
  calibration.few = {3, 0.5};
  calibration.many = {1, 0.25};
  const Calibration again = CostModel(calibration).calibration();
  ASSERT_EQ(again.points.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(again.points[i].n_rows, calibration.points[i].n_rows);
    EXPECT_DOUBLE_EQ(again.points[i].ns, calibration.points[i].ns);
  }
  EXPECT_EQ(again.few.attended_ns, 3);
  EXPECT_EQ(again.many.scanned_ns, 0.25);
}

TEST(CostModel, InShort) {
  Calibration calibration{{{1, 100}, {256, 5120}}};
  calibration.load_token_ns = 7;
  const CostEstimates costs = CostModel(calibration).costs();
  EXPECT_DOUBLE_EQ(costs.step_ns, 100);
  EXPECT_DOUBLE_EQ(costs.prefill_token_ns, 20);
  EXPECT_DOUBLE_EQ(costs.load_token_ns, 7);
}

TEST(CostModel, KnowsWhatStepsTakeOfLate) {
  CostModel model;
  EXPECT_EQ(model.mean_step_ns(), 0);
  model.observe_step(100);
  EXPECT_DOUBLE_EQ(model.mean_step_ns(), 100);
  for (int i = 0; i < 100; ++i) model.observe_step(20);
  EXPECT_NEAR(model.mean_step_ns(), 20, 0.1);
}

}  // namespace
}  // namespace llamaherd

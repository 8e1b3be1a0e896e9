#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <vector>

#include "cost/decode_batching.h"

namespace llamaherd {
namespace {

/// ns of 1, 2, 3... rows.
CostModel model_of(const std::vector<double>& curve) {
  Calibration calibration;
  for (double ns : curve) {
    calibration.points.push_back({static_cast<std::int32_t>(calibration.points.size()) + 1, ns});
  }
  return CostModel(calibration);
}

std::vector<DecodeBatch> widths_of(std::int32_t n, const std::vector<double>& curve, bool may_pad) {
  DecodeBatching widths(n, may_pad ? 64 : 0);
  const auto found = widths.of(n, model_of(curve));
  return {found.begin(), found.end()};
}

using List = std::vector<DecodeBatch>;

TEST(DecodeBatching, OneCallWhereRowsShareItsCost) {
  EXPECT_EQ(widths_of(3, {10, 11, 12, 13}, true), (List{{3, 0}}));
}

TEST(DecodeBatching, CallsOfOneWhereTwoCostMoreThanTwice) {
  EXPECT_EQ(widths_of(2, {5.6, 24.3, 31.2, 33.9}, true), (List{{1, 0}, {1, 0}}));
}

TEST(DecodeBatching, FilledUpToTheNextGoodNumber) {
  // One model's times of 1 to 8 rows on stock kernels.
  const std::vector<double> curve = {3.8, 6.8, 9.7, 6.7, 9.9, 12.9, 16.2, 12.7};
  EXPECT_EQ(widths_of(7, curve, true), (List{{7, 1}}));
  EXPECT_EQ(widths_of(3, curve, true), (List{{3, 1}}));
  EXPECT_EQ(widths_of(7, curve, false), (List{{7, 0}}));
  EXPECT_EQ(widths_of(4, curve, true), (List{{4, 0}}));
}

TEST(DecodeBatching, AGoodNumberAndTheRest) {
  std::vector<double> curve(16, 46);
  curve[0] = 6;
  curve.push_back(60);
  EXPECT_EQ(widths_of(17, curve, true), (List{{16, 0}, {1, 0}}));
}

TEST(DecodeBatching, ASmallGainChangesNothing) {
  EXPECT_EQ(widths_of(2, {5, 10.1}, true), (List{{2, 0}}));
  EXPECT_EQ(widths_of(1, {5, 4.9}, true), (List{{1, 0}}));
}

TEST(DecodeBatching, ChangeWithTheModel) {
  CostModel model = model_of({5, 11});
  DecodeBatching widths(2, 0);
  EXPECT_EQ(widths.of(2, model).size(), 2u);
  for (int i = 0; i < 500; ++i) {
    model.observe({1}, 5);
    model.observe({2}, 6);
  }
  EXPECT_EQ(widths.of(2, model).size(), 1u);
}

/// The least time of n rows by trying everything.
double best_ns(std::int32_t n, const std::vector<double>& curve) {
  double best = n == 0 ? 0 : std::numeric_limits<double>::max();
  for (std::int32_t k = 1; k <= n; ++k) {
    for (std::size_t padded = k; padded <= curve.size() && padded <= k + 15u; ++padded) {
      best = std::min(best, curve[padded - 1] + best_ns(n - k, curve));
    }
  }
  return best;
}

TEST(DecodeBatching, AreNearlyTheBestOfAll) {
  std::mt19937 rng(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<double> curve(9);
    for (double& ns : curve) ns = 1 + static_cast<double>(rng() % 30);
    const std::int32_t n = 1 + static_cast<std::int32_t>(rng() % 7);
    double ns = 0;
    std::int32_t n_rows = 0;
    for (const DecodeBatch& width : widths_of(n, curve, true)) {
      ns += curve.at(width.n_rows + width.n_pad - 1);
      n_rows += width.n_rows;
    }
    EXPECT_EQ(n_rows, n);
    EXPECT_LE(ns, best_ns(n, curve) * 1.1);
  }
}

TEST(DecodeBatching, FewerRowsThanThereAreIfTheyTakeLessTimeEach) {
  Calibration calibration;
  std::int32_t n = 0;
  for (const double ns : {38, 68, 97, 67, 99, 129, 162, 127})
    calibration.points.push_back({++n, ns});
  const CostModel model(calibration);
  DecodeBatching widths(8, 0);
  const std::vector<std::int32_t> expected = {1, 2, 3, 4, 4, 4, 4, 8};
  for (std::int32_t k = 1; k <= 8; ++k) {
    EXPECT_EQ(widths.most_productive(k, model), expected[k - 1]) << k;
  }
}

TEST(DecodeBatching, NoNumberOfRequestsYieldsLessThanASmallerOne) {
  std::mt19937 rng(5);
  for (int round = 0; round < 200; ++round) {
    Calibration calibration;
    for (std::int32_t n = 1; n <= 32; ++n) {
      calibration.points.push_back({n, 10 + static_cast<double>(rng() % 300)});
    }
    const CostModel model(calibration);
    DecodeBatching widths(32, rng() % 2 ? 32 : 0);
    double best = 0;
    for (std::int32_t n = 1; n <= 32; ++n) {
      const std::int32_t n_rows = widths.most_productive(n, model);
      ASSERT_LE(n_rows, n);
      double ns = 0;
      for (const DecodeBatch& width : widths.of(n_rows, model)) {
        ns += model.call_ns({width.n_rows + width.n_pad});
      }
      EXPECT_GE(n_rows / ns, 0.95 * best);
      best = std::max(best, n_rows / ns);
    }
  }
}

}  // namespace
}  // namespace llamaherd

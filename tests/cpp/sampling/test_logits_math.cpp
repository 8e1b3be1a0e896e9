#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "sampling/logits_math.h"

namespace llamaherd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const std::vector<std::size_t> kSizes = {1,  2,  15, 16, 17,  31,  32,  33,  63,  64,
                                         65, 79, 80, 81, 127, 128, 129, 200, 1000};

std::vector<float> random_row(std::mt19937& rng, std::size_t n) {
  std::normal_distribution<float> normal(0, 8);
  std::vector<float> row(n);
  for (float& x : row) x = normal(rng);
  return row;
}

RowScan scan(const std::vector<float>& row) {
  std::vector<float> block_max;
  return scan_row(row, block_max);
}

TEST(ScanRow, FindsMaximumArgmaxAndBlockMaximaAtAnyLength) {
  std::mt19937 rng(1);
  for (std::size_t n : kSizes) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> row = random_row(rng, n);
      if (round % 2) {
        for (float& x : row) x = std::round(x / 8);  // many ties
      }
      std::vector<float> block_max = {1, 2, 3};  // of an earlier row
      const RowScan got = scan_row(row, block_max);
      const auto best = std::max_element(row.begin(), row.end());
      ASSERT_TRUE(got.finite);
      ASSERT_EQ(got.max, *best);
      ASSERT_EQ(got.argmax, best - row.begin()) << "the lowest id among equals";
      ASSERT_EQ(block_max.size(), (n + kLogitsBlock - 1) / kLogitsBlock);
      for (std::size_t b = 0; b < block_max.size(); ++b) {
        const auto begin = row.begin() + b * kLogitsBlock;
        ASSERT_EQ(block_max[b],
                  *std::max_element(begin, begin + std::min(kLogitsBlock, n - b * kLogitsBlock)));
      }
    }
  }
}

TEST(ScanRow, SeesNanAndInfAtEveryPlace) {
  std::mt19937 rng(2);
  for (std::size_t n : kSizes) {
    for (std::size_t i = 0; i < n; ++i) {
      std::vector<float> row = random_row(rng, n);
      row[i] = kNan;
      ASSERT_FALSE(scan(row).finite) << "NaN at " << i << " of " << n;
      row[i] = kInf;
      ASSERT_FALSE(scan(row).finite) << "inf at " << i << " of " << n;
      row[i] = 100;
      ASSERT_TRUE(scan(row).finite);
      ASSERT_EQ(scan(row).argmax, static_cast<TokenId>(i));
    }
  }
}

TEST(ScanRow, MinusInfinityIsFiniteEnoughUnlessThereIsNothingElse) {
  for (std::size_t n : kSizes) {
    std::vector<float> row(n, -kInf);
    EXPECT_FALSE(scan(row).finite) << n;
    row.back() = -1e30f;
    EXPECT_TRUE(scan(row).finite) << n;
    EXPECT_EQ(scan(row).argmax, static_cast<TokenId>(n - 1));
  }
  EXPECT_FALSE(scan({}).finite);
}

TEST(ScanRow, NanHidesBehindMinusInfinityNeither) {
  std::vector<float> row(40, -kInf);
  row[3] = kNan;
  EXPECT_FALSE(scan(row).finite);
  row[4] = 1;
  EXPECT_FALSE(scan(row).finite);
}

TEST(ExpWeight, IsAsCloseToTheExponentialAsStated) {
  for (float x = -86.9f; x <= 0; x += 0.0137f) {
    const double expected = std::exp(static_cast<double>(x));
    const double tolerance = x > -10 ? 1e-6 : 4e-6;
    ASSERT_NEAR(exp_weight(x, 0, 1), expected, tolerance * expected) << x;
  }
  EXPECT_EQ(exp_weight(3, 3, 1), 1.0f);
}

TEST(ExpWeight, IsZeroFarBelow) {
  for (float x : {-87.1f, -100.0f, -1e30f, -kInf}) EXPECT_EQ(exp_weight(x, 0, 1), 0.0f) << x;
}

TEST(ExpWeight, NeverGrowsAsTheLogitFalls) {
  float last = 1;
  for (float x = 0; x > -20; x -= 0.001f) {
    const float weight = exp_weight(x, 0, 1);
    ASSERT_LE(weight, last * (1 + 1e-6f)) << x;
    last = weight;
  }
}

TEST(ExpSums, AgreeWithDoublePrecisionAtAnyLengthAndScale) {
  std::mt19937 rng(3);
  for (std::size_t n : kSizes) {
    for (float scale : {1.0f, 0.01f, 1.7f, 40.0f}) {
      std::vector<float> row = random_row(rng, n);
      row[n / 2] = -kInf;
      row[n - 1] = 3;
      const float max = *std::max_element(row.begin(), row.end());
      std::vector<float> sums;
      const double total = exp_sums(row, max, scale, sums);
      ASSERT_EQ(sums.size(), (n + kLogitsBlock - 1) / kLogitsBlock);
      double expected_total = 0;
      for (std::size_t b = 0; b < sums.size(); ++b) {
        double expected = 0;
        for (std::size_t i = b * kLogitsBlock; i < std::min(n, (b + 1) * kLogitsBlock); ++i) {
          // (logit - max) * scale is rounded in float: the engine's definition of the weight.
          expected += std::exp(static_cast<double>((row[i] - max) * scale));
        }
        ASSERT_NEAR(sums[b], expected, 2e-6 * expected + 1e-36);
        expected_total += expected;
      }
      ASSERT_NEAR(total, expected_total, 2e-6 * expected_total);
    }
  }
}

TEST(ExpSums, RoundAsExpWeightDoes) {
  const std::vector<float> row = {1.25f, -3.5f, 0.75f};
  for (std::size_t i = 0; i < row.size(); ++i) {
    std::vector<float> sums;
    EXPECT_EQ(exp_sums(std::span(row).subspan(i, 1), 1.25f, 1.3f, sums),
              exp_weight(row[i], 1.25f, 1.3f));
  }
}

}  // namespace
}  // namespace llamaherd

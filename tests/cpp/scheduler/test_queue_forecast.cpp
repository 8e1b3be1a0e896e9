#include <gtest/gtest.h>

#include "scheduler/queue_forecast.h"

namespace llamaherd {
namespace {

TEST(QueueForecast, TheFirstToEndMakesThePlace) {
  const QueueForecast forecast({{1, 40}, {1, 10}, {1, 20}}, {5, 0, 1e3});
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(1), 50);
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(2), 100);
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(3), 200);
}

TEST(QueueForecast, MorePlacesTakeRounds) {
  const QueueForecast forecast({{1, 10}, {1, 20}}, {5, 0, 1e3});
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(3), 100 + 50);
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(6), 200 + 100);
}

TEST(QueueForecast, PromptsTakeTheirTurns) {
  // 64 rows a step: the first prompt's last step is already its first token's.
  const QueueForecast forecast({{128, 10}, {128, 10}}, {1, 64, 1e3});
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(1), 10 + 1);
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(2), 10 + 3);
}

TEST(QueueForecast, WhoIsGivenUpMakesAPlaceToo) {
  const QueueForecast forecast({{1, 40}, {1, 20, 30.0}}, {5, 0, 1e3, 40});
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(1), 30) << "runs until its deadline";
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(2), 40) << "waits in vain";
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(3), 80) << "likewise";
  EXPECT_DOUBLE_EQ(forecast.until_fewer_wait_ns(4), 200);
}

TEST(QueueForecast, NothingChangesWithinAStep) {
  EXPECT_DOUBLE_EQ(QueueForecast({{1, 40}}, {5, 0, 1e3, 2}).until_fewer_wait_ns(1), 5);
}

TEST(QueueForecast, WhereNobodyRunsARequestTakesWhatItDoesOnAverage) {
  EXPECT_DOUBLE_EQ(QueueForecast({}, {5, 0, 700}).until_fewer_wait_ns(2), 700);
  EXPECT_DOUBLE_EQ(QueueForecast({{64, 9}}, {0, 0, 700}).until_fewer_wait_ns(1), 700)
      << "no step yet";
}

TEST(OutputLengths, LearnWhichPartOfMaxTokensIsUsed) {
  OutputLengths lengths;
  EXPECT_EQ(lengths.expected_left(0, 100), 100);
  EXPECT_EQ(lengths.expected_left(30, 100), 70);
  for (int i = 0; i < 200; ++i) lengths.finished(25, 100);
  EXPECT_NEAR(lengths.expected_left(0, 100), 25, 1);
  EXPECT_NEAR(lengths.expected_left(0, 400), 100, 4);
  EXPECT_EQ(lengths.expected_left(60, 100), 20)
      << "longer than expected: somewhere in what is left";
  EXPECT_EQ(lengths.expected_left(99, 100), 1);
}

}  // namespace
}  // namespace llamaherd

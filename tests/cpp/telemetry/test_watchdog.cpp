#include <gtest/gtest.h>

#include "telemetry/watchdog.h"

namespace llamaherd {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

class WatchdogTest : public ::testing::Test {
 protected:
  Watchdog dog_;
  static constexpr Watchdog::Load kBusy = {2, 3, 40, 100};
};

TEST_F(WatchdogTest, AnIdleEngineIsWell) {
  dog_.loads(kSecond, {});
  const Health health = dog_.health(1000 * kSecond);
  EXPECT_TRUE(health.ok);
  EXPECT_EQ(health.since_progress_s, 0);
  EXPECT_EQ(dog_.take_incident(1000 * kSecond), "");
}

TEST_F(WatchdogTest, WhatComesAfterAPauseIsNotLate) {
  dog_.loads(kSecond, {});
  dog_.loads(1000 * kSecond, kBusy);
  EXPECT_TRUE(dog_.health(1001 * kSecond).ok);
}

TEST_F(WatchdogTest, ACallThatOutlastsItsPredictionManyTimesIsToldOnce) {
  dog_.loads(kSecond, kBusy);
  dog_.call_begins(10 * kSecond, 0.02e9, 4, 64);
  EXPECT_TRUE(dog_.health(14 * kSecond).ok) << "some seconds may pass";
  const Health health = dog_.health(16 * kSecond);
  EXPECT_FALSE(health.ok);
  EXPECT_DOUBLE_EQ(health.call_s, 6);
  EXPECT_DOUBLE_EQ(health.call_predicted_s, 0.02);
  EXPECT_EQ(dog_.take_incident(16 * kSecond),
            "a decode call with 4 decode and 64 prefill rows has run for 6.0 s; predicted: 0.020 s "
            "(2 running, 3 waiting, 40 of 100 KV cells used, last progress 15.0 s ago)");
  EXPECT_EQ(dog_.take_incident(17 * kSecond), "");
  dog_.call_ends(20 * kSecond, true);
  EXPECT_TRUE(dog_.health(20 * kSecond).ok);
  EXPECT_EQ(dog_.take_incident(20 * kSecond), "");
  dog_.call_begins(30 * kSecond, 0.02e9, 4, 0);
  EXPECT_NE(dog_.take_incident(40 * kSecond), "") << "another incident";
}

TEST_F(WatchdogTest, ASlowModelsCallsMayTakeLong) {
  dog_.loads(kSecond, kBusy);
  dog_.call_begins(kSecond, 3e9, 4, 512);
  EXPECT_TRUE(dog_.health(300 * kSecond).ok);
  EXPECT_FALSE(dog_.health(302 * kSecond).ok);
}

TEST_F(WatchdogTest, CallsThatFailAreNoProgress) {
  dog_.loads(kSecond, kBusy);
  for (int i = 2; i < 20; ++i) {
    dog_.call_begins(i * kSecond, 0.02e9, 4, 0);
    dog_.call_ends(i * kSecond + 1, false);
  }
  EXPECT_EQ(dog_.health(20 * kSecond).reason,
            "no token was computed for 19.0 s with 2 requests running and 3 waiting");
  dog_.call_begins(20 * kSecond, 0.02e9, 4, 0);
  dog_.call_ends(21 * kSecond, true);
  EXPECT_TRUE(dog_.health(22 * kSecond).ok);
}

}  // namespace
}  // namespace llamaherd

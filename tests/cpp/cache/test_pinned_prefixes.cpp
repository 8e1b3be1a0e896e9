#include <gtest/gtest.h>

#include "cache/pinned_prefixes.h"

namespace llamaherd {
namespace {

TEST(PinnedPrefixes, APinReplacesThatOfItsName) {
  PinnedPrefixes pins;
  pins.pin("a", {1, {1, 2}, 10});
  pins.pin("b", {1, {3}, 0});
  pins.pin("a", {2, {4}, 20});
  EXPECT_EQ(pins.size(), 2);
  EXPECT_EQ(pins.all().at("a").space, 2u);
  EXPECT_EQ(pins.all().at("a").tokens, std::vector<TokenId>{4});
  EXPECT_EQ(pins.all().at("a").expires_ns, 20);
}

TEST(PinnedPrefixes, UnpinTellsWhetherThereWasOne) {
  PinnedPrefixes pins;
  pins.pin("a", {1, {1}, 0});
  EXPECT_FALSE(pins.unpin("b"));
  EXPECT_TRUE(pins.unpin("a"));
  EXPECT_FALSE(pins.unpin("a"));
  EXPECT_EQ(pins.size(), 0);
}

TEST(PinnedPrefixes, ExpireRemovesThoseWhoseTimeHasCome) {
  PinnedPrefixes pins;
  pins.pin("never", {1, {1}, 0});
  pins.pin("at 10", {1, {1}, 10});
  pins.pin("at 11", {1, {1}, 11});
  pins.expire(9);
  EXPECT_EQ(pins.size(), 3);
  pins.expire(10);
  EXPECT_EQ(pins.size(), 2);
  EXPECT_FALSE(pins.all().contains("at 10"));
  pins.expire(1'000'000);
  EXPECT_EQ(pins.size(), 1);
  EXPECT_TRUE(pins.all().contains("never"));
  pins.clear();
  EXPECT_EQ(pins.size(), 0);
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "common/small_vector.h"

namespace llamaherd {
namespace {

TEST(SmallVector, HoldsAsManyAsArePushed) {
  for (int n = 0; n < 10; ++n) {
    SmallVector<int, 4> list;
    std::vector<int> expected;
    for (int i = 0; i < n; ++i) {
      list.push_back(i);
      expected.push_back(i);
    }
    EXPECT_EQ(std::vector<int>(list.begin(), list.end()), expected);
    EXPECT_EQ(list.size(), expected.size());
    EXPECT_EQ(list.empty(), expected.empty());
  }
}

TEST(SmallVector, CopiesAndMovesAreItsEquals) {
  for (const int n : {3, 4, 5}) {
    SmallVector<int, 4> list;
    for (int i = 0; i < n; ++i) list.push_back(i);
    const std::vector<int> items(list.begin(), list.end());
    SmallVector<int, 4> copy = list;
    const SmallVector<int, 4> moved = std::move(list);
    EXPECT_EQ(std::vector<int>(moved.begin(), moved.end()), items);
    copy.push_back(n);
    EXPECT_EQ(copy.size(), items.size() + 1);
    EXPECT_EQ(moved.size(), items.size());
  }
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "scheduler/preemption_policy.h"

namespace llamaherd {
namespace {

TEST(Preemption, ChoosesAsTabulated) {
  struct Row {
    const char* name;
    std::vector<Runner> runners;  // id, priority, n_preempted, n_progress
    std::optional<std::size_t> patient;
    std::optional<std::size_t> whoever;
  };
  const std::vector<Row> rows = {
      {"nobody", {}, {}, {}},
      {"the youngest", {{1, 0, 0, 0}, {3, 0, 0, 0}, {2, 0, 0, 0}}, 1, 1},
      {"of the lowest class", {{1, 5, 0, 0}, {2, 7, 0, 9}, {3, 0, 0, 0}}, 1, 1},
      {"those spared so far before the youngest", {{1, 0, 0, 0}, {2, 0, 1, 99}}, 0, 0},
      {"fewest times first", {{1, 0, 3, 99}, {2, 0, 2, 99}, {3, 0, 3, 99}}, 1, 1},
      {"the class counts more than how often", {{1, 1, 5, 99}, {2, 0, 0, 0}}, 0, 0},
      {"not before some progress", {{1, 0, 1, 8}, {2, 1, 1, 7}}, 0, 1},
      {"unless there is nobody else", {{1, 0, 1, 7}, {2, 0, 1, 0}}, {}, 1},
  };
  for (const Row& row : rows) {
    EXPECT_EQ(choose_victim(row.runners, false), row.patient) << row.name;
    EXPECT_EQ(choose_victim(row.runners, true), row.whoever) << row.name;
  }
}

TEST(Preemption, HeadroomDoublesAndEndsWithTheRequest) {
  EXPECT_EQ(headroom(1000, 0), kHeadroom);
  EXPECT_EQ(headroom(1000, 1), 2 * kHeadroom);
  EXPECT_EQ(headroom(1000, 3), 8 * kHeadroom);
  EXPECT_EQ(headroom(1000, 1000), 1000);
  EXPECT_EQ(headroom(5, 0), 5);
  EXPECT_EQ(headroom(0, 2), 0);
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include "scheduler/prefill_sharing.h"

namespace llamaherd {
namespace {

struct Case {
  const char* name;
  PrefillLead lead;  // have, common, leader's progress, ahead
  double step_ns;
  bool waits;
};

TEST(InFlight, WaitsWhereTheFirstTokenComesSooner) {
  const Case cases[] = {
      {"nothing in common", {0, 0, 0, 500}, 1, false},
      {"has as much already", {64, 64, 0, 500}, 1, false},
      {"has more already", {100, 64, 0, 500}, 1, false},
      {"the leader has just begun and is all there is in line", {0, 640, 0, 670}, 10, true},
      {"the leader is nearly there", {0, 640, 630, 40}, 10, true},
      {"a few tokens are not worth a step", {0, 8, 8, 0}, 10, false},
      {"a few tokens more are", {0, 12, 12, 0}, 10, true},
      {"equal is not sooner", {0, 10, 10, 0}, 10, false},
      {"has nearly all itself, the leader little", {630, 640, 0, 0}, 10, false},
      {"has nearly all itself, but stands behind the leader", {630, 640, 0, 700}, 10, true},
      {"a dear step", {0, 640, 600, 100}, 1000, false},
  };
  for (const Case& c : cases) {
    CostEstimates costs;
    costs.prefill_token_ns = 1;
    costs.step_ns = c.step_ns;
    EXPECT_EQ(should_wait_for_prefill(c.lead, costs), c.waits) << c.name;
  }
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "engine/invariants.h"

namespace llamaherd {
namespace {

Snapshot good_snapshot() {
  Snapshot s;
  s.running = {{7, 0, 4, 6, 5, 10}, {9, 2, 8, 8, 3, 12}};
  s.sequences = {{0, true, 5, 5}, {1, false, 0, 0}, {2, true, 3, 3}, {5, false, 4, 4}};
  s.n_seqs = 3;
  s.n_cells = 30;
  s.n_cells_used = 12;
  s.n_cells_needed = 8;
  return s;
}

TEST(Invariants, HoldForAGoodSnapshot) {
  EXPECT_EQ(violations(good_snapshot()), std::vector<std::string>{});
  EXPECT_EQ(violations(Snapshot{}), std::vector<std::string>{});
}

TEST(Invariants, EachViolationIsNamed) {
  struct Row {
    std::string sentence;
    std::function<void(Snapshot&)> spoil;
  };
  const std::vector<Row> rows = {
      {"request 7 runs without a sequence", [](Snapshot& s) { s.running[0].seq = kNoSeq; }},
      {"request 7 runs without a sequence", [](Snapshot& s) { s.running[0].seq = 3; }},
      {"request 9 shares its sequence id", [](Snapshot& s) { s.running[1].seq = 0; }},
      {"request 7 holds a sequence that is free in the pool",
       [](Snapshot& s) { s.sequences[0].in_use = false; }},
      {"request 7 committed vs the cache's length: 4 != 5",
       [](Snapshot& s) { s.running[0].kv_len = 4; }},
      {"request 7 has no token pending", [](Snapshot& s) { s.running[0].n_tokens = 5; }},
      {"request 7 has no token pending", [](Snapshot& s) { s.running[0].kv_len = -1; }},
      {"request 7 has an invalid prompt length", [](Snapshot& s) { s.running[0].n_prompt = 7; }},
      {"request 7 has an invalid prompt length", [](Snapshot& s) { s.running[0].n_prompt = 0; }},
      {"request 7 uses more cells than it reserved",
       [](Snapshot& s) { s.running[0].n_cells_needed = 4; }},
      {"sequence 2 cache vs backend length: 3 != 4",
       [](Snapshot& s) { s.sequences[2].backend_length = 4; }},
      {"sequence 5 cache vs backend length: 4 != 0",
       [](Snapshot& s) { s.sequences[3].backend_length = 0; }},
      {"sequence 1 is free but holds cells", [](Snapshot& s) { s.sequences[1].cache_length = 1; }},
      {"a sentence", [](Snapshot& s) { s.cache_violations = {"a sentence"}; }},
      {"sequences in use vs running requests: 3 != 2",
       [](Snapshot& s) { s.sequences[1].in_use = true; }},
      {"more cells used than exist", [](Snapshot& s) { s.n_cells = 11; }},
      {"more cells needed than exist", [](Snapshot& s) { s.n_cells = 7; }},
  };
  for (const Row& row : rows) {
    Snapshot s = good_snapshot();
    row.spoil(s);
    const auto found = violations(s);
    EXPECT_NE(std::find(found.begin(), found.end(), row.sentence), found.end())
        << row.sentence << " not in " << ::testing::PrintToString(found);
  }
}

}  // namespace
}  // namespace llamaherd

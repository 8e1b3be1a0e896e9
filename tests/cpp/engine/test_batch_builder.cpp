#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "engine/batch_builder.h"
#include "request/request.h"
#include "support.h"

namespace llamaherd {
namespace {

template <typename T>
std::vector<T> copy(std::span<const T> span) {
  return {span.begin(), span.end()};
}

class BatchBuilderTest : public ::testing::Test {
 protected:
  Request make(RequestId id, std::vector<TokenId> prompt, Pos kv_len) {
    Request request(id, std::move(prompt), greedy({}, 8).params, 0, {kVocab, 64}, table_, 0);
    request.commit_step(kv_len, nullptr);
    return request;
  }

  Vocabulary table_ = make_table();
  BatchBuilder builder_{9};
};

TEST_F(BatchBuilderTest, LaysRowsOutInPlanOrder) {
  Request a = make(1, {10, 11, 12}, 2);
  Request b = make(2, {20, 21, 22, 23, 24}, 1);
  CallPlan call;
  call.add(&a, 3, 2, 3, true);
  call.add(&b, 0, 1, 4, false);
  const BatchView batch = builder_.build(call, 0);
  EXPECT_EQ(copy(batch.tokens), (std::vector<TokenId>{12, 21, 22, 23}));
  EXPECT_EQ(copy(batch.positions), (std::vector<Pos>{2, 1, 2, 3}));
  EXPECT_EQ(copy(batch.seqs), (std::vector<SeqId>{3, 0, 0, 0}));
  EXPECT_EQ(copy(batch.wants_logits), (std::vector<std::uint8_t>{1, 0, 0, 0}));
}

TEST_F(BatchBuilderTest, FillsUpWithRowsOfASequenceThatIsNobodys) {
  Request a = make(1, {10, 11}, 1);
  CallPlan call;
  call.add(&a, 3, 1, 2, true);
  const BatchView batch = builder_.build(call, 2);
  EXPECT_EQ(copy(batch.positions), (std::vector<Pos>{1, 0, 1}));
  EXPECT_EQ(copy(batch.seqs), (std::vector<SeqId>{3, 9, 9}));
  EXPECT_EQ(copy(batch.wants_logits), (std::vector<std::uint8_t>{1, 0, 0}));
}

TEST_F(BatchBuilderTest, OnlyTheLastRowOfAPromptWantsLogits) {
  Request a = make(1, {10, 11, 12}, 0);
  CallPlan call;
  call.add(&a, 0, 0, 3, true);
  EXPECT_EQ(call.items[0].logits_row, 2);
  EXPECT_EQ(copy(builder_.build(call, 0).wants_logits), (std::vector<std::uint8_t>{0, 0, 1}));
}

TEST_F(BatchBuilderTest, ASecondBuildForgetsTheFirst) {
  Request a = make(1, {10, 11, 12}, 0);
  CallPlan call;
  call.add(&a, 0, 0, 3, true);
  builder_.build(call, 0);
  EXPECT_EQ(builder_.build(call, 0).tokens.size(), 3u);
  EXPECT_TRUE(builder_.build(CallPlan{}, 0).tokens.empty());
}

TEST_F(BatchBuilderTest, ContradictionsThrow) {
  struct Row {
    const char* name;
    std::function<void(PlannedRequest&)> spoil;
  };
  const std::vector<Row> rows = {
      {"first row too high", [](PlannedRequest& p) { ++p.first_row; }},
      {"first row too low", [](PlannedRequest& p) { --p.first_row; }},
      {"begins behind the committed length", [](PlannedRequest& p) { ++p.begin; }},
      {"begins before the committed length", [](PlannedRequest& p) { --p.begin; }},
      {"empty", [](PlannedRequest& p) { p.end = p.begin; }},
      {"ends behind the known tokens", [](PlannedRequest& p) { ++p.end; }},
      {"logits before the last row", [](PlannedRequest& p) { --p.logits_row; }},
      {"logits behind the last row", [](PlannedRequest& p) { ++p.logits_row; }},
      {"logits before the last known token",
       [](PlannedRequest& p) {
         --p.end;
         --p.logits_row;
       }},
  };
  Request a = make(1, {10, 11, 12, 13}, 1);
  Request b = make(2, {20, 21, 22, 23}, 1);
  CallPlan good;
  good.add(&a, 0, 1, 4, true);
  good.add(&b, 1, 1, 4, true);
  EXPECT_NO_THROW(builder_.build(good, 0));
  for (const Row& row : rows) {
    CallPlan bad = good;
    row.spoil(bad.items[1]);
    EXPECT_THROW(builder_.build(bad, 0), std::logic_error) << row.name;
  }
}

}  // namespace
}  // namespace llamaherd

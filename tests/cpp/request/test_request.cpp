#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

#include "request/request.h"
#include "support.h"

namespace llamaherd {
namespace {

constexpr TokenId kA = 1, kB = 2, kC = 3;

class RequestTest : public ::testing::Test {
 protected:
  /// Feeds the tokens until one ends the request.
  Outcome run(const std::vector<TokenId>& outputs, std::int32_t max_len = 64) {
    Request r(1, prompt_, params_, 0, {kVocab, max_len}, table_, 1);
    r.start(0, 0, 2);
    Outcome o;
    for (TokenId token : outputs) {
      r.commit_step(r.n_tokens(), &token);
      const Delta delta = r.take_delta(3);
      o.token_ids.insert(o.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
      o.text += delta.text;
      o.reason = delta.finish_reason;
      EXPECT_EQ(delta.n_completion, static_cast<std::int32_t>(o.token_ids.size()));
      EXPECT_EQ(delta.n_prompt, static_cast<std::int32_t>(prompt_.size()));
      if (!o.reason) continue;
      EXPECT_EQ(r.state(), Request::State::kFinished);
      break;
    }
    return o;
  }

  Vocabulary table_ = make_table();
  std::vector<TokenId> prompt_ = {kA, kB, kC};
  SamplingParams params_;
};

TEST_F(RequestTest, CursorsFollowTheTokenAxis) {
  params_.max_tokens = 4;
  Request r(7, prompt_, params_, 0, {kVocab, 64}, table_, 1);
  EXPECT_EQ(r.state(), Request::State::kWaiting);
  EXPECT_EQ(r.n_pending(), 3);
  EXPECT_EQ(r.n_cells_needed(), 6);
  r.start(5, 0, 2);
  EXPECT_EQ(r.seq(), 5);
  r.commit_step(2, nullptr);
  EXPECT_EQ(r.n_pending(), 1);
  r.commit_step(3, &kA);
  EXPECT_EQ(r.n_pending(), 1);
  EXPECT_EQ(r.n_output(), 1);
  EXPECT_EQ(r.kv_len(), 3);
  r.forget_kv();
  EXPECT_EQ(r.n_pending(), 4);
}

TEST_F(RequestTest, MaxTokensIsCutToWhatFits) {
  params_.max_tokens = 100;
  EXPECT_EQ(run({kA, kA, kA, kA}, 5), (Outcome{{kA, kA}, "aa", FinishReason::kLength, ""}));
  params_.max_tokens.reset();
  Request r(1, prompt_, params_, 0, {kVocab, 10}, table_, 0);
  EXPECT_EQ(r.n_cells_needed(), 9);
  Request roomy(1, prompt_, params_, 0, {kVocab, 10000}, table_, 0);
  EXPECT_EQ(roomy.n_cells_needed(), 3 + kDefaultMaxTokens - 1);
}

TEST_F(RequestTest, EndsByLengthAtMaxTokens) {
  params_.max_tokens = 3;
  EXPECT_EQ(run({kA, kB, kC, kA}), (Outcome{{kA, kB, kC}, "abc", FinishReason::kLength, ""}));
}

TEST_F(RequestTest, AnEndOfGenerationIsInTheTokensButNotInTheText) {
  params_.max_tokens = 9;
  EXPECT_EQ(run({kA, kEos, kB}), (Outcome{{kA, kEos}, "a", FinishReason::kStop, ""}));
}

TEST_F(RequestTest, AStopTokenIsInTheTokensButNotInTheText) {
  params_.stop_token_ids = {kC};
  EXPECT_EQ(run({kA, kC, kB}), (Outcome{{kA, kC}, "a", FinishReason::kStop, ""}));
}

TEST_F(RequestTest, APreservedSpecialTokenIsShownByItsName) {
  Vocabulary table = make_table();
  const TokenId call = table.n_vocab();
  table.add("", false, "<call>");
  table.add("", false, "<other>");
  std::swap(table, table_);
  params_.max_tokens = 4;
  EXPECT_EQ(run({kA, call, call + 1, kB}).text, "ab");
  params_.preserved_tokens = {call};
  EXPECT_EQ(run({kA, call, call + 1, kB}).text, "a<call>b");
}

TEST_F(RequestTest, AStopTokenAtMaxTokensIsAStop) {
  params_.max_tokens = 2;
  EXPECT_EQ(run({kA, kEos}).reason, FinishReason::kStop);
  params_.stop = {"ab"};
  EXPECT_EQ(run({kA, kB}).reason, FinishReason::kStop);
}

TEST_F(RequestTest, IgnoreEosRunsPastIt) {
  params_.max_tokens = 3;
  params_.ignore_eos = true;
  EXPECT_EQ(run({kA, kEos, kB}), (Outcome{{kA, kEos, kB}, "a</s>b", FinishReason::kLength, ""}));
}

TEST_F(RequestTest, AStopStringIsCutFromTheText) {
  params_.stop = {"bc"};
  EXPECT_EQ(run({kA, kB, kC, kA}), (Outcome{{kA, kB, kC}, "a", FinishReason::kStop, ""}));
}

TEST_F(RequestTest, TextHeldBackComesWithTheLastDelta) {
  params_.stop = {"bcb"};
  params_.max_tokens = 3;
  EXPECT_EQ(run({kA, kB, kC}), (Outcome{{kA, kB, kC}, "abc", FinishReason::kLength, ""}));
  params_.max_tokens = 9;
  EXPECT_EQ(run({kA, kB, kEos}).text, "ab");
}

TEST_F(RequestTest, NoStopStringCountsBeforeMinTokens) {
  params_.stop = {"a"};
  params_.min_tokens = 2;
  EXPECT_EQ(run({kA, kA, kB}), (Outcome{{kA, kA}, "a", FinishReason::kStop, ""}));
  params_.min_tokens = 3;
  EXPECT_EQ(run({kA, kA, kB, kA, kC}), (Outcome{{kA, kA, kB, kA}, "aab", FinishReason::kStop, ""}));
}

TEST_F(RequestTest, EchoPutsThePromptBeforeTheFirstOutput) {
  params_.echo = true;
  params_.max_tokens = 2;
  params_.stop = {"bc", "cb"};  // neither the prompt's nor one across the border counts
  EXPECT_EQ(run({kB, kA}), (Outcome{{kB, kA}, "abcba", FinishReason::kLength, ""}));
}

TEST_F(RequestTest, FinishGivesOutHeldTextOnce) {
  params_.stop = {"ab"};
  Request r(1, prompt_, params_, 0, {kVocab, 64}, table_, 1);
  r.start(0, 0, 2);
  r.commit_step(3, &kA);
  EXPECT_EQ(r.take_delta(3).text, "");
  const Delta last = r.finish(FinishReason::kError, "why", 4);
  EXPECT_EQ(last.text, "a");
  EXPECT_TRUE(last.token_ids.empty());
  EXPECT_EQ(last.finish_reason, FinishReason::kError);
  EXPECT_EQ(last.error, "why");
  EXPECT_EQ(last.n_completion, 1);
}

TEST_F(RequestTest, TimingRecordsEachMomentOnce) {
  Request r(1, prompt_, params_, 0, {kVocab, 64}, table_, 10);
  r.start(0, 0, 20);
  r.commit_step(3, &kA);
  r.take_delta(30);
  r.commit_step(4, &kB);
  const Timing t = r.take_delta(40).timing;
  EXPECT_EQ(t.submit_ns, 10);
  EXPECT_EQ(t.start_ns, 20);
  EXPECT_EQ(t.first_token_ns, 30);
  EXPECT_EQ(t.last_ns, 40);
}

}  // namespace
}  // namespace llamaherd

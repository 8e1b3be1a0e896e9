#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <thread>

#include "common/error.h"
#include "engine_thread_fixture.h"
#include "sampling/constrained_sampling.h"
#include "sampling/token_constraint.h"

namespace llamaherd {
namespace {

constexpr std::chrono::seconds kSeconds{30};

TokenMask mask_of(std::initializer_list<TokenId> tokens) {
  TokenMask mask((kVocab + 31) / 32, 0);
  for (const TokenId token : tokens) mask[token / 32] |= 1u << (token % 32);
  return mask;
}

std::vector<float> row() {
  std::vector<float> logits(kVocab);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 37 % 20) / 8;
  return logits;
}

TEST(Constrained, DrawsInProportionAmongWhatIsAllowed) {
  std::vector<TokenId> allowed;
  TokenMask mask = mask_of({});
  for (TokenId token = 3; token < kVocab; token += 4) {
    allowed.push_back(token);
    mask[token / 32] |= 1u << (token % 32);
  }
  double total = 0;
  for (const TokenId token : allowed) total += std::exp(double{row()[token]});
  const Constraint constraint(mask);
  Sampler sampler(SamplingParams{}, 7, make_table(), {}, 0);
  RowScratch scratch;
  std::map<TokenId, int> counts;
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> logits = row();
    const SampledOutput sampled = sample_constrained(sampler, constraint, logits, scratch);
    ASSERT_TRUE(sampled.token && *sampled.token % 4 == 3);
    sampler.accept(*sampled.token);
    ++counts[*sampled.token];
  }
  double chi_square = 0;
  for (const TokenId token : allowed) {
    const double mean = kDraws * std::exp(double{row()[token]}) / total;
    chi_square += (counts[token] - mean) * (counts[token] - mean) / mean;
  }
  EXPECT_LT(chi_square, 45);  // 15 degrees of freedom: 1 in 10^4
}

TEST(Constrained, SaysWhyThereIsNoToken) {
  RowScratch scratch;
  const Sampler sampler(SamplingParams{}, 7, make_table(), {}, 0);
  const Constraint nothing(mask_of({}));
  std::vector<float> logits = row();
  SampledOutput sampled = sample_constrained(sampler, nothing, logits, scratch);
  EXPECT_FALSE(sampled.token || sampled.poisoned);
  EXPECT_NE(sampled.error.find("dead end"), std::string::npos);

  Constraint some(mask_of({1, 2}));
  logits = row();
  logits[1] = NAN;
  sampled = sample_constrained(sampler, some, logits, scratch);
  EXPECT_TRUE(sampled.poisoned && sampled.error.empty());

  some.fail("broken");
  logits = row();
  EXPECT_EQ(sample_constrained(sampler, some, logits, scratch).error, "broken");
}

TEST(Constrained, TheOnlyTokenAllowedIsTakenUnlessItsRowIsBroken) {
  SamplingParams params;
  params.logit_bias = {{9, -INFINITY}};
  const Vocabulary table = make_table();
  const Sampler sampler(params, 1, table, {}, 8);
  const auto sample = [&](std::vector<float> logits, std::initializer_list<TokenId> allowed) {
    Constraint mask(mask_of(allowed));
    EXPECT_EQ(mask.forced_token().has_value(), allowed.size() == 1);
    RowScratch scratch;
    return sample_constrained(sampler, mask, logits, scratch);
  };
  EXPECT_EQ(sample(row(), {35}).token, 35);
  EXPECT_EQ(sample(row(), {0}).token, 0);
  std::vector<float> broken = row();
  broken[35] = NAN;
  EXPECT_TRUE(sample(broken, {35}).poisoned);
  EXPECT_FALSE(sample(row(), {9}).error.empty());
  EXPECT_FALSE(sample(row(), {}).error.empty());
  EXPECT_TRUE(sample(row(), {9, 35}).token == 35);
}

TEST(Constraint, NeedsNoMasksOnceLifted) {
  Constraint masks(mask_of({1}));
  masks.accept(1);
  EXPECT_FALSE(masks.ready());
  masks.lift();
  for (TokenId token : {1, 40, 7}) {
    EXPECT_TRUE(masks.ready() && masks.allows_all() && !masks.forced_token());
    masks.accept(token);
  }
}

TEST(Constraint, IsReadyWhenTheNextTokensMaskIsThere) {
  Constraint masks(mask_of({1, 40}));
  ASSERT_TRUE(masks.ready());
  EXPECT_FALSE(masks.forced_token() || masks.allows_all());
  std::vector<float> logits = row();
  masks.mask_logits(logits);
  for (TokenId token = 0; token < kVocab; ++token) {
    EXPECT_EQ(std::isfinite(logits[token]), token == 1 || token == 40) << token;
  }
  masks.accept(1);
  EXPECT_FALSE(masks.ready());
  EXPECT_FALSE(masks.wait(std::chrono::milliseconds(1)));
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    masks.put(1, mask_of({2}));
  });
  EXPECT_TRUE(masks.wait(kSeconds));
  EXPECT_EQ(masks.forced_token(), 2);
  late.join();
  const Vocabulary table = make_table();
  EXPECT_FALSE(masks.clone(table)->forced_token());
  masks.accept(2);
  masks.fail("none any more");
  EXPECT_TRUE(masks.wait(kSeconds));
  EXPECT_EQ(masks.error(), "none any more");
}

TEST(Constraint, NeedsNoMaskBeforeATrigger) {
  Vocabulary table;
  table.add("a", false);
  table.add("call", false);
  table.add("", false, "<tool>");
  table.add(">", false);
  const auto made = [&](std::vector<std::string> triggers, std::vector<TokenId> tokens) {
    const auto constraint = Constraint({}, std::move(triggers)).clone(table);
    for (const TokenId token : tokens) constraint->accept(token);
    return constraint;
  };
  for (const std::vector<TokenId>& free :
       std::vector<std::vector<TokenId>>{{}, {0, 1}, {1, 0, 1, 0, 3}, {2, 0}}) {
    EXPECT_TRUE(made({"callcall", "call>"}, free)->ready());
    EXPECT_TRUE(made({"callcall", "call>"}, free)->allows_all());
  }
  for (const std::vector<TokenId>& triggered :
       std::vector<std::vector<TokenId>>{{1, 1}, {0, 1, 3}, {1, 0, 1, 3, 0, 0}}) {
    EXPECT_FALSE(made({"callcall", "call>"}, triggered)->ready());
  }
  EXPECT_FALSE(made({"a<tool>"}, {0, 2})->ready());
  const auto later = made({"<tool>"}, {0, 2});
  EXPECT_FALSE(later->ready());
  later->put(2, {});
  EXPECT_TRUE(later->allows_all());
  later->accept(0);
  EXPECT_FALSE(later->ready());
}

class ConstrainedRequests : public EngineThreadTest {
 protected:
  RequestId submit_masked(const Spec& spec, TokenMask first) {
    SubmitOptions options;
    options.constraint = std::make_shared<Constraint>(std::move(first));
    return engine_->submit(spec.prompt, spec.params, options);
  }

  /// All deltas of requests until all of `ids` have ended; `on_delta` may hand in masks.
  std::map<RequestId, std::vector<Delta>> run(std::vector<RequestId> ids,
                                              const std::function<void(const Delta&)>& on_delta) {
    std::map<RequestId, std::vector<Delta>> all;
    std::size_t n_ended = 0;
    while (n_ended < ids.size()) {
      for (const Delta& delta : engine_->drain(kLong)) {
        all[delta.request_id].push_back(delta);
        if (delta.finish_reason) ++n_ended;
        on_delta(delta);
      }
    }
    return all;
  }

  static std::vector<TokenId> tokens_of(const std::vector<Delta>& deltas) {
    std::vector<TokenId> tokens;
    for (const Delta& delta : deltas) {
      tokens.insert(tokens.end(), delta.token_ids.begin(), delta.token_ids.end());
    }
    return tokens;
  }
};

TEST_F(ConstrainedRequests, EachTokenWaitsForItsMask) {
  start();
  const RequestId masked = submit_masked(greedy({1, 2, 3}, 5), mask_of({10}));
  const RequestId free = engine_->submit({4, 5, 6}, greedy({}, 5).params, {});
  const auto all = run({masked, free}, [&](const Delta& delta) {
    if (delta.request_id == masked && !delta.finish_reason) {
      engine_->set_mask(masked, delta.n_completion, mask_of({10 + delta.n_completion}));
    }
  });
  EXPECT_EQ(tokens_of(all.at(masked)), (std::vector<TokenId>{10, 11, 12, 13, 14}));
  EXPECT_EQ(tokens_of(all.at(free)).size(), 5u);
  engine_->set_mask(masked, 5, mask_of({1}));  // too late: nobody's business
}

TEST_F(ConstrainedRequests, ALateMaskKeepsNobodyElseWaiting) {
  start();
  const RequestId late = submit_masked(greedy({1, 2, 3}, 5), mask_of({10}));
  const RequestId free = engine_->submit({4, 5, 6}, greedy({}, 40).params, {});
  bool free_ended = false;
  std::int32_t n_late = 0;
  const auto all = run({late, free}, [&](const Delta& delta) {
    free_ended |= delta.request_id == free && delta.finish_reason;
    if (delta.request_id == late) n_late = delta.n_completion;
    if (free_ended && n_late > 0) engine_->set_mask(late, n_late, mask_of({10 + n_late}));
  });
  EXPECT_EQ(tokens_of(all.at(free)).size(), 40u);
  EXPECT_EQ(tokens_of(all.at(late)), (std::vector<TokenId>{10, 11, 12, 13, 14}));
}

TEST_F(ConstrainedRequests, AFailedOneEndsAlone) {
  start();
  const RequestId failing = submit_masked(greedy({1, 2, 3}, 9), mask_of({10}));
  const RequestId stuck = submit_masked(greedy({1, 2, 4}, 9), mask_of({}));
  const RequestId free = engine_->submit({4, 5, 6}, greedy({}, 5).params, {});
  const auto all = run({failing, stuck, free}, [&](const Delta& delta) {
    if (delta.request_id == failing && !delta.finish_reason) {
      engine_->fail_mask(failing, "it broke");
    }
  });
  EXPECT_EQ(all.at(failing).back().finish_reason, FinishReason::kError);
  EXPECT_EQ(all.at(failing).back().error, "it broke");
  EXPECT_EQ(all.at(stuck).back().finish_reason, FinishReason::kError);
  EXPECT_NE(all.at(stuck).back().error.find("dead end"), std::string::npos);
  EXPECT_EQ(all.at(free).back().finish_reason, FinishReason::kLength);
  EXPECT_EQ(engine_->metrics().n_cells_used - engine_->metrics().cache.n_cells_reclaimable, 0);
}

TEST_F(ConstrainedRequests, EveryOutputOfAPromptHasItsOwn) {
  start();
  SubmitOptions options;
  options.constraint = std::make_shared<Constraint>(mask_of({10}));
  SamplingParams params = greedy({}, 3).params;
  params.n = 3;
  const RequestId first = engine_->submit({1, 2, 3}, params, options);
  const auto all = run({first, first + 1, first + 2}, [&](const Delta& delta) {
    if (delta.finish_reason) return;
    const auto offset = static_cast<TokenId>(delta.request_id - first);
    engine_->set_mask(delta.request_id, delta.n_completion, mask_of({20 + offset}));
  });
  for (RequestId i = 0; i < 3; ++i) {
    const auto token = static_cast<TokenId>(20 + i);
    EXPECT_EQ(tokens_of(all.at(first + i)), (std::vector<TokenId>{10, token, token}));
  }
}

TEST_F(ConstrainedRequests, MasksMustBeOfTheVocabularysSize) {
  start();
  EXPECT_THROW(submit_masked(greedy({1, 2}, 2), TokenMask(1)), InvalidRequestError);
  EXPECT_THROW(engine_->set_mask(1, 0, TokenMask(3)), InvalidRequestError);
}

TEST_F(ConstrainedRequests, ClosingDoesNotWaitForAMask) {
  start();
  submit_masked(greedy({1, 2, 3}, 9), mask_of({10}));
  while (engine_->drain(kLong).empty()) continue;
  engine_->close();
  std::vector<Delta> all;
  while (!engine_->finished()) {
    for (Delta& delta : engine_->drain(kLong)) all.push_back(std::move(delta));
  }
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all.back().finish_reason, FinishReason::kCancelled);
}

}  // namespace
}  // namespace llamaherd

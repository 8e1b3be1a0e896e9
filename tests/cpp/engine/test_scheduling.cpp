#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "support.h"

namespace llamaherd {
namespace {

SubmitOptions of_class(std::int32_t priority) { return {.key = {priority, "", kNever, kNever}}; }

/// Whether the memory can be trimmed.
class Scheduling : public ::testing::TestWithParam<bool> {
 protected:
  Scheduling() : options_(small_herd()) {
    options_.plan.calibration = split_calibration();
    options_.fake.info.partial_removal = GetParam();
  }

  static Spec endless(std::vector<TokenId> prompt, std::int32_t max_tokens) {
    Spec spec = greedy(std::move(prompt), max_tokens);
    spec.params.ignore_eos = true;
    return spec;
  }

  static std::vector<Spec> different(int n, std::int32_t n_prompt, std::int32_t max_tokens) {
    std::mt19937 rng(77);
    std::vector<Spec> specs;
    for (int i = 0; i < n; ++i) specs.push_back(endless(random_prompt(rng, n_prompt), max_tokens));
    return specs;
  }

  HerdOptions options_;
};

std::string memory_name(const ::testing::TestParamInfo<bool>& info) {
  return info.param ? "Trimmable" : "Untrimmable";
}
INSTANTIATE_TEST_SUITE_P(All, Scheduling, ::testing::Bool(), memory_name);

TEST_P(Scheduling, TwiceTheCellsWorthOfRequestsAllFinish) {
  options_.fake.info.n_ctx = 160;  // of 4 x 80
  const auto specs = different(12, 20, 61);
  for (const std::int64_t max_ram_bytes : {0, 100000}) {
    options_.cache.max_ram_bytes = max_ram_bytes;
    Herd herd(options_);
    const auto outcomes = run_together(herd, specs);
    for (std::size_t i = 0; i < specs.size(); ++i) {
      EXPECT_EQ(outcomes[i], run_alone(specs[i])) << i;
    }
    const Metrics m = herd.engine.metrics();
    EXPECT_GT(m.n_preempted, 0);
    EXPECT_EQ(m.n_finished_error, 0);
    EXPECT_EQ(m.n_no_room, 0);
    if (GetParam() && max_ram_bytes > 0) {
      EXPECT_LE(m.n_prefill_rows + m.n_decode_rows, 12 * (20 + 60)) << "nothing twice";
    }
  }
}

TEST_P(Scheduling, EveryPreemptedRequestMakesProgressBetweenTwoPreemptions) {
  options_.fake.info.n_ctx = 100;
  options_.limits.max_len = 100;
  options_.fake.info.n_seqs = 6;
  Herd herd(options_);
  for (const Spec& spec : different(10, 10, 60)) herd.submit(spec);
  std::map<RequestId, std::pair<std::int32_t, Pos>> last;  // times preempted, tokens then
  while (!herd.engine.idle()) {
    herd.step();
    for (RequestId id = 1; id <= 10; ++id) {
      const Request* r = herd.engine.find(id);
      if (r == nullptr) continue;
      auto& [n, n_tokens] = last[id];
      if (r->n_preempted() == n) continue;
      EXPECT_EQ(r->n_preempted(), n + 1);
      if (n > 0) {
        EXPECT_GE(r->n_tokens(), n_tokens + kLeastProgress);
      }
      n = r->n_preempted();
      n_tokens = r->n_tokens();
    }
  }
  EXPECT_GT(herd.engine.metrics().n_preempted, 3);
  EXPECT_TRUE(herd.collector.complete());
}

TEST_P(Scheduling, AnUrgentRequestTakesTheYoungestsPlaceAndGivesItBack) {
  const auto specs = different(5, 6, 30);
  Herd herd(options_);
  std::vector<RequestId> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(herd.submit(specs[i], of_class(10)));
  for (int i = 0; i < 12; ++i) herd.step();
  ids.push_back(herd.submit(specs[4], of_class(0)));
  herd.step();
  EXPECT_NE(herd.engine.find(ids[4])->seq(), kNoSeq) << "runs at once";
  EXPECT_EQ(herd.engine.find(ids[3])->n_preempted(), 1) << "the youngest waits";
  EXPECT_EQ(herd.engine.metrics().n_preempted, 1);
  herd.run();
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(herd[ids[i]], run_alone(specs[i]));
  EXPECT_EQ(herd.engine.metrics().n_preempted, 1);
}

TEST_P(Scheduling, NobodyIsPreemptedForItsOwnClassOrInVain) {
  options_.fake.info.n_ctx = 120;
  const auto specs = different(6, 6, 20);
  Herd herd(options_);
  herd.submit(endless(std::vector<TokenId>(30, 3), 40), of_class(0));
  for (int i = 0; i < 3; ++i) herd.submit(specs[i], of_class(5));
  for (int i = 0; i < 4; ++i) herd.step();
  ASSERT_EQ(herd.engine.metrics().n_running, 3) << "as many as there are cells for";
  herd.submit(specs[4], of_class(5));
  herd.submit(endless(std::vector<TokenId>(60, 4), 30), of_class(4));
  herd.step();
  EXPECT_EQ(herd.engine.metrics().n_preempted, 0)
      << "even both of class 5 would not leave cells enough";
  herd.run();
}

TEST_P(Scheduling, SmallOnesPassABigOneOnlySoOften) {
  options_.fake.info.n_ctx = 96;
  options_.limits.max_len = 96;
  options_.fake.info.n_seqs = 3;
  Herd herd(options_);
  herd.submit(endless(std::vector<TokenId>(5, 2), 91));  // holds the engine for long
  for (int i = 0; i < 3; ++i) herd.step();
  const RequestId big = herd.submit(endless(std::vector<TokenId>(70, 3), 5));
  std::vector<RequestId> small;
  std::mt19937 rng(3);
  for (int i = 0; i < 60; ++i) small.push_back(herd.submit(endless(random_prompt(rng, 2), 2)));
  int n_passed = 0;
  while (herd.engine.find(big) != nullptr && herd.engine.find(big)->seq() == kNoSeq) herd.step();
  for (RequestId id : small) n_passed += herd[id].reason.has_value();
  EXPECT_GT(n_passed, 8);
  EXPECT_LT(n_passed, 20);
  herd.run();
}

TEST_P(Scheduling, WhatMissedItsDeadlineEnds) {
  Herd herd(options_);
  const std::int64_t now = herd.clock.now_ns();
  const Spec spec = endless({5, 6, 7}, 40);
  const RequestId late = herd.submit(spec, {.key = {0, "", now - 1, kNever}});
  const RequestId late_start = herd.submit(spec, {.key = {0, "", kNever, now - 1}});
  const std::int64_t in_an_hour = now + 3'600'000'000'000;
  const RequestId fine = herd.submit(spec, {.key = {0, "", in_an_hour, kNever}});
  herd.step();
  EXPECT_EQ(herd[late].reason, FinishReason::kDeadline);
  EXPECT_EQ(herd[late_start].reason, FinishReason::kDeadline);
  EXPECT_EQ(herd.backend.n_calls(), 1) << "nothing was computed for them";
  EXPECT_EQ(herd.engine.metrics().n_shed, 2);
  for (int i = 0; i < 5; ++i) herd.step();
  herd.clock.advance(in_an_hour - now);
  herd.step();
  EXPECT_EQ(herd[fine].reason, FinishReason::kDeadline);
  EXPECT_EQ(herd[fine].token_ids.size(), 6u) << "keeps what it has";
  EXPECT_EQ(herd.engine.metrics().n_shed, 2);
  EXPECT_EQ(herd.engine.metrics().n_finished_deadline, 3);
}

TEST_P(Scheduling, WhatIsPredictedToMissItsDeadlineIsNotStarted) {
  options_.plan.calibration = Calibration{{{1, 1e9}, {kChunkRows, 64e9}}};  // a second a row
  Herd herd(options_);
  const std::int64_t now = herd.clock.now_ns();
  const std::int64_t in_30_s = now + 30'000'000'000;
  const std::vector<TokenId> prompt(20, 9);
  const RequestId can = herd.submit(endless(prompt, 5), {.key = {0, "", in_30_s, kNever}});
  const RequestId cannot = herd.submit(endless(prompt, 20), {.key = {0, "", in_30_s, kNever}});
  Spec may = greedy(prompt, 60);  // it may stop early
  const RequestId could = herd.submit(may, {.key = {0, "", in_30_s, kNever}});
  const RequestId no_start = herd.submit(may, {.key = {0, "", kNever, now + 5'000'000'000}});
  herd.step();
  EXPECT_FALSE(herd[can].reason);
  EXPECT_FALSE(herd[could].reason);
  EXPECT_EQ(herd[cannot].reason, FinishReason::kDeadline);
  EXPECT_EQ(herd[no_start].reason, FinishReason::kDeadline);
  EXPECT_EQ(herd.engine.metrics().n_shed, 2);
  herd.run();
  if (!GetParam()) return;  // snapshots cannot be shared up to the last token but one
  // With its prompt in the cache the first token can be had in time.
  const RequestId cached =
      herd.submit(may, {.key = {0, "", kNever, herd.clock.now_ns() + 5'000'000'000}});
  herd.step();
  EXPECT_NE(herd[cached].reason, FinishReason::kDeadline);
  herd.run();
}

TEST_P(Scheduling, AnUrgentFollowerMakesItsLeaderUrgent) {
  options_.fake.info.n_ctx = 1024;
  options_.limits.max_len = 512;
  options_.fake.info.n_seqs = 2;
  Herd herd(options_);
  std::mt19937 rng(5);
  const auto prefix = random_prompt(rng, 300);
  const RequestId leader = herd.submit(endless(prefix, 4), of_class(9));
  herd.step();
  auto prompt = prefix;
  prompt.push_back(3);
  const RequestId follower = herd.submit(endless(prompt, 4), of_class(1));
  herd.step();
  ASSERT_EQ(herd.engine.metrics().cache.n_followers, 1);
  EXPECT_EQ(herd.engine.find(leader)->queue_entry.key.priority, 1);
  herd.run();
  EXPECT_EQ(herd[follower], run_alone(endless(prompt, 4), options_));
}

TEST_P(Scheduling, EachRequestsTimeIsAccountedFor) {
  options_.fake.info.n_ctx = 160;
  options_.fake.decode_ns = 20'000;
  Herd herd(options_);
  const auto specs = different(12, 20, 61);
  for (const Spec& spec : specs) herd.submit(spec);
  std::vector<Delta> deltas;
  while (!herd.engine.idle()) herd.engine.step(deltas);
  int n_ended = 0;
  TimeBreakdown total{};
  for (const Delta& delta : deltas) {
    const Timing& t = delta.timing;
    EXPECT_EQ(std::accumulate(t.spent.begin(), t.spent.end(), std::int64_t{0}),
              t.last_ns - t.submit_ns);
    if (!delta.finish_reason) continue;
    ++n_ended;
    for (std::size_t i = 0; i < kSpentKinds; ++i) total[i] += t.spent[i];
    // A call that decodes and prefills counts for both.
    EXPECT_GE(t.spent[static_cast<std::size_t>(TimeCategory::kDecode)] +
                  t.spent[static_cast<std::size_t>(TimeCategory::kOthersPrefill)],
              60 * 20'000);
    EXPECT_EQ(t.n_preempted > 0, t.spent[static_cast<std::size_t>(TimeCategory::kPreempted)] > 0);
  }
  EXPECT_EQ(n_ended, 12);
  for (const TimeCategory kind :
       {TimeCategory::kQueued, TimeCategory::kPreempted, TimeCategory::kPrefill,
        TimeCategory::kDecode, TimeCategory::kOthersPrefill, TimeCategory::kSampling,
        TimeCategory::kEngine}) {
    EXPECT_GT(total[static_cast<std::size_t>(kind)], 0) << static_cast<int>(kind);
  }
}

TEST_P(Scheduling, ATraceHasEveryCallAndCoversEachRequestsTime) {
  Herd herd(options_);
  herd.engine.trace().start();
  for (const Spec& spec : different(6, 20, 10)) herd.submit(spec);
  herd.run();
  const auto [spans, calls] = herd.engine.trace().take();
  EXPECT_EQ(static_cast<std::int64_t>(calls.size()), herd.backend.n_calls());
  std::map<RequestId, std::int64_t> end;
  for (const TraceLog::Span& span : spans) {
    EXPECT_LT(span.begin_ns, span.end_ns);
    if (end.contains(span.id)) EXPECT_EQ(span.begin_ns, end[span.id]) << "no gap";
    end[span.id] = span.end_ns;
  }
  EXPECT_EQ(end.size(), 6u);
  herd.submit(greedy({1}, 2));
  herd.run();
  EXPECT_TRUE(herd.engine.trace().take().first.empty()) << "it has ended";
}

}  // namespace
}  // namespace llamaherd

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "support.h"

namespace llamaherd {

/// Faults of every kind at so many in a hundred of the first n_calls decode calls.
inline void add_random_faults(std::mt19937& rng, int n_in_100, std::int64_t n_calls,
                              FakeOptions& fake) {
  constexpr DecodeStatus kStatuses[] = {DecodeStatus::kNoRoom, DecodeStatus::kInvalidBatch,
                                        DecodeStatus::kAborted, DecodeStatus::kFailed};
  for (std::int64_t call = 0; call < n_calls; ++call) {
    if (static_cast<int>(rng() % 100) >= n_in_100) continue;
    fake.faults[call] = {static_cast<Fault::Kind>(rng() % 3), kStatuses[rng() % 4],
                         static_cast<std::int32_t>(rng() % 20)};
  }
}

/// The requests of one schedule: which were cancelled, and which cannot but fail.
struct Schedule {
  std::map<RequestId, Spec> specs;
  std::set<RequestId> cancelled;
  std::set<RequestId> spoiled;

  /// Now and then, cancels one of those submitted so far.
  void maybe_cancel(std::mt19937& rng, Herd& herd) {
    if (rng() % 6) return;
    const RequestId victim = 1 + rng() % specs.size();
    if (!herd[victim].reason) cancelled.insert(victim);
    herd.cancel(victim);
  }
};

struct Ends {
  std::int64_t n_whole = 0;
  std::int64_t n_errors = 0;
};

/// Every output is what it is alone, without faults and without a cache: all of it, or what came
/// before the cancellation or error.
inline void expect_outputs_of_each_alone(const Herd& herd, const Schedule& schedule, bool any_fault,
                                         HerdOptions options, Ends& ends) {
  options.fake.info.n_ctx = 256;
  for (const auto& [id, spec] : schedule.specs) {
    const Outcome& got = herd[id];
    if (schedule.cancelled.count(id)) {
      ASSERT_EQ(got.reason, FinishReason::kCancelled);
    } else if (schedule.spoiled.count(id)) {
      ASSERT_EQ(got.reason, FinishReason::kError);
    } else if (!any_fault) {
      ASSERT_NE(got.reason, FinishReason::kError) << got.error;
    }
    if (schedule.spoiled.count(id)) {
      ASSERT_TRUE(got.token_ids.empty());
      continue;
    }
    const Outcome alone = run_alone(spec, options);
    if (got.reason == FinishReason::kCancelled || got.reason == FinishReason::kError) {
      ends.n_errors += got.reason == FinishReason::kError;
      const bool is_prefix =
          got.token_ids.size() <= alone.token_ids.size() &&
          std::equal(got.token_ids.begin(), got.token_ids.end(), alone.token_ids.begin());
      ASSERT_TRUE(is_prefix) << got << " of " << alone;
    } else {
      ++ends.n_whole;
      ASSERT_EQ(got, alone) << "request " << id;
    }
  }
}

}  // namespace llamaherd

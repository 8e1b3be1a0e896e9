#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "schedule.h"

namespace llamaherd {
namespace {

HerdOptions random_herd(std::mt19937& rng, int n_faults_in_100) {
  HerdOptions options = small_herd();
  FakeOptions& fake = options.fake;
  fake.info.n_seqs = 1 + static_cast<std::int32_t>(rng() % 6);
  fake.info.n_ctx = 96 + static_cast<std::int32_t>(rng() % 200);
  fake.info.n_batch = 8 + static_cast<std::int32_t>(rng() % 100);
  fake.info.partial_removal = rng() % 3 > 0;
  fake.contagious = rng() % 2;
  fake.n_remembered = static_cast<std::int32_t>(rng() % 3);
  fake.curse = rng() % 2 ? DecodeStatus::kFailed : DecodeStatus::kInvalidBatch;
  options.plan = random_plan(fake.info, rng);
  add_random_faults(rng, n_faults_in_100, 3000, fake);
  return options;
}

struct Tally {
  std::int64_t n_steps = 0;
  std::int64_t n_preempted = 0;
  std::int64_t n_drafted = 0;
  std::int64_t n_draft_accepted = 0;
  Ends ends;
};

/// Any class and tenant; a deadline changes outputs, not their order.
SubmitOptions random_turn(std::mt19937& rng) {
  const auto priority = static_cast<std::int32_t>(rng() % 3);
  return {.key = {priority, std::string(1, static_cast<char>('a' + rng() % 3)), kNever, kNever}};
}

/// A schedule of arrivals and cancellations; every request's output is compared with its own when
/// alone: all of it, or what came before the cancellation or error.
void run_schedule(std::uint32_t seed, int n_faults_in_100, Tally& tally) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 rng(seed);
  const HerdOptions options = random_herd(rng, n_faults_in_100);
  Herd herd(options);
  Schedule schedule;
  for (int i = 0; i < 25; ++i) {
    Spec spec = random_spec(rng, 60, 30);
    const bool spoil = rng() % 12 == 0;
    if (spoil) spec.prompt[rng() % spec.n_run()] = rng() % 2 ? kPoison : kCursed;
    const RequestId id = herd.submit(spec, random_turn(rng));
    schedule.specs[id] = spec;
    if (spoil) schedule.spoiled.insert(id);
    for (std::size_t n = rng() % 10; n > 0; --n) herd.step();
    schedule.maybe_cancel(rng, herd);
  }
  herd.run();
  tally.n_steps += herd.n_steps;
  tally.n_preempted += herd.engine.metrics().n_preempted;
  tally.n_drafted += herd.engine.metrics().n_drafted;
  tally.n_draft_accepted += herd.engine.metrics().n_draft_accepted;

  expect_outputs_of_each_alone(herd, schedule, n_faults_in_100 > 0, options, tally.ends);
}

TEST(Fuzz, ArrivalsCancellationsAndSpoiledRequestsChangeNoOtherOutput) {
  Tally tally;
  for (std::uint32_t seed = 1; seed <= 60; ++seed) {
    run_schedule(seed, 0, tally);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
  EXPECT_GT(tally.n_steps, 5000);
  EXPECT_GT(tally.n_preempted, 200);
  EXPECT_GT(tally.ends.n_whole, 1000);
  EXPECT_GT(tally.n_draft_accepted, 50);
  EXPECT_GT(tally.n_drafted, tally.n_draft_accepted + 10);
}

TEST(Fuzz, FaultsAtRandomCallsChangeNoSurvivorsOutput) {
  Tally tally;
  for (std::uint32_t seed = 1001; seed <= 1120; ++seed) {
    run_schedule(seed, 2 + static_cast<int>(seed % 12), tally);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
  EXPECT_GT(tally.n_steps, 10000);
  EXPECT_GT(tally.ends.n_whole, 1500);
  EXPECT_GT(tally.ends.n_errors, 20);
}

TEST(Fuzz, ABackendThatFailsEveryOtherTimeStillEndsEveryRequest) {
  Tally tally;
  for (std::uint32_t seed = 2001; seed <= 2020; ++seed) {
    run_schedule(seed, 50, tally);
    if (HasFatalFailure() || HasNonfatalFailure()) return;
  }
}

}  // namespace
}  // namespace llamaherd

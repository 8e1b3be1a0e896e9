#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

#include "cache_driver.h"
#include "schedule.h"

namespace llamaherd {
namespace {

struct Setup {
  int n_faults_in_100 = 0;
  bool disk = false;
};

struct Tally {
  Ends ends;
  CacheMetrics cache;
  std::int64_t n_prompt_logits_hits = 0;
};

HerdOptions random_herd(std::mt19937& rng, const Setup& setup, const TempFolder& folder) {
  HerdOptions options = small_herd();
  FakeOptions& fake = options.fake;
  fake.info.n_seqs = 1 + static_cast<std::int32_t>(rng() % 6);
  fake.info.n_holders = static_cast<std::int32_t>(rng() % 10);
  fake.info.kv_save_block = 32;
  fake.info.n_ctx = 170 + static_cast<std::int32_t>(rng() % 150);
  fake.info.n_batch = 8 + static_cast<std::int32_t>(rng() % 100);
  fake.info.partial_removal = setup.disk || rng() % 3 > 0;
  fake.contagious = rng() % 2;
  fake.curse = rng() % 2 ? DecodeStatus::kFailed : DecodeStatus::kInvalidBatch;
  if (rng() % 4 == 0) fake.loads_fail_from = static_cast<std::int64_t>(rng() % 20);
  options.limits.max_len = 160;
  options.plan = random_plan(fake.info, rng);
  CacheOptions& cache = options.cache;
  if (rng() % 4) cache.max_ram_bytes = static_cast<std::int64_t>(rng() % 4000);
  if (rng() % 2) cache.costs.load_call_ns = cache.costs.step_ns = 0;
  if (setup.disk) {
    cache.disk_folder = folder.path();
    cache.max_disk_bytes = 64 * 1024 + static_cast<std::int64_t>(rng() % 8000);
  }
  add_random_faults(rng, setup.n_faults_in_100, 1000, fake);
  return options;
}

/// Prompts cut from a few trunks, and conversations that go on with the engine's own output.
class Prompts {
 public:
  explicit Prompts(std::mt19937& rng) : rng_(rng) {
    for (int i = 0; i < 3; ++i) add(random_prompt(rng_, 20 + rng_() % 60));
    for (int i = 0; i < 4; ++i) add(cut() + random_prompt(rng_, 1 + rng_() % 30));
  }
  void add(Tokens path) {
    if (path.size() <= 130) paths_.push_back(std::move(path));
  }
  Tokens next() {
    const Tokens& path = paths_[rng_() % paths_.size()];
    switch (rng_() % 4) {
      case 0:
        return path;
      case 1:
        return cut();
      default:
        return (rng_() % 2 ? path : cut()) + random_prompt(rng_, 1 + rng_() % 20);
    }
  }

 private:
  Tokens cut() {
    Tokens path = paths_[rng_() % paths_.size()];
    path.resize(1 + rng_() % path.size());
    return path;
  }

  std::mt19937& rng_;
  std::vector<Tokens> paths_;
};

/// Every request's output is what it is alone and without a cache: all of it, or what came before
/// the cancellation or error.
void run_schedule(std::uint32_t seed, const Setup& setup, Tally& tally) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 rng(seed);
  const TempFolder folder;
  const HerdOptions options = random_herd(rng, setup, folder);
  Herd herd(options);
  Prompts prompts(rng);
  Schedule schedule;
  std::set<RequestId> continued;
  for (int i = 0; i < 14; ++i) {
    Spec spec = random_spec(rng, 1, 16);
    spec.prompt = prompts.next();
    if (spec.params.prompt_logprobs) ask_for_scores(spec, rng);
    const bool spoil = rng() % 20 == 0;
    if (spoil) spec.prompt[spec.n_run() - 1] = rng() % 2 ? kPoison : kCursed;
    SubmitOptions submit;
    if (rng() % 8 == 0) submit.cache_space = 1;
    if (rng() % 16 == 0) submit.cache_space.reset();
    submit.key.priority = static_cast<std::int32_t>(rng() % 3);
    const RequestId id = herd.submit(spec, submit);
    schedule.specs[id] = spec;
    if (spoil) schedule.spoiled.insert(id);
    if (rng() % 2) {
      for (std::size_t n = rng() % 16; n > 0; --n) herd.step();
    }
    if (rng() % 8 == 0) herd.engine.pin("it", rng() % 2, prompts.next(), rng() % 2 ? 1 : 0);
    if (rng() % 10 == 0) herd.engine.unpin("it");
    if (rng() % 20 == 0) herd.engine.clear_cache();
    if (setup.disk && rng() % 20 == 0) folder.damage();
    for (const auto& [done, s] : schedule.specs) {
      if (!herd[done].reason || schedule.spoiled.count(done) || !continued.insert(done).second)
        continue;
      prompts.add(s.prompt + herd[done].token_ids + random_prompt(rng, rng() % 6));
    }
    schedule.maybe_cancel(rng, herd);
  }
  herd.run();

  expect_outputs_of_each_alone(herd, schedule, setup.n_faults_in_100 > 0, options, tally.ends);
  herd.engine.flush_cache();
  const Metrics m = herd.engine.metrics();
  tally.n_prompt_logits_hits += m.n_prompt_logits_hits;
  tally.cache.n_followers += m.cache.n_followers;
  tally.cache.n_from_running += m.cache.n_from_running;
  tally.cache.n_from_finished += m.cache.n_from_finished;
  tally.cache.n_from_in_flight += m.cache.n_from_in_flight;
  tally.cache.n_from_ram += m.cache.n_from_ram;
  tally.cache.n_from_disk += m.cache.n_from_disk;
}

void run_schedules(std::uint32_t first, std::uint32_t n, const Setup& setup, Tally& tally) {
  for (std::uint32_t seed = first; seed < first + n; ++seed) {
    run_schedule(seed, setup, tally);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(SharedPrefixFuzz, SharingChangesNoOutput) {
  Tally tally;
  run_schedules(1, 1200, {}, tally);
  EXPECT_GT(tally.ends.n_whole, 8500);
  EXPECT_GT(tally.n_prompt_logits_hits, 100);
  EXPECT_GT(tally.cache.n_followers, 500);
  EXPECT_GT(tally.cache.n_from_running, 17100);
  EXPECT_GT(tally.cache.n_from_finished, 17100);
  EXPECT_GT(tally.cache.n_from_in_flight, 8500);
  EXPECT_GT(tally.cache.n_from_ram, 8500);
}

TEST(SharedPrefixFuzz, FaultsChangeNoSurvivorsOutput) {
  Tally tally;
  for (std::uint32_t i = 0; i < 10; ++i) {
    run_schedules(10000 + 70 * i, 70, {.n_faults_in_100 = 1 + static_cast<int>(i)}, tally);
  }
  EXPECT_GT(tally.ends.n_whole, 5000);
  EXPECT_GT(tally.ends.n_errors, 5);
}

TEST(SharedPrefixFuzz, NeitherDoesADisk) {
  Tally tally;
  run_schedules(20000, 150, {.disk = true}, tally);
  run_schedules(30000, 100, {.n_faults_in_100 = 4, .disk = true}, tally);
  EXPECT_GT(tally.cache.n_from_disk, 1000);
}

}  // namespace
}  // namespace llamaherd

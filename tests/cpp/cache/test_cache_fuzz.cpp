#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "cache_driver.h"

namespace llamaherd {
namespace {

struct Setup {
  bool ram = false;
  bool disk = false;
  bool partial_removal = true;
};

struct Tally {
  std::int64_t n_shared = 0;
  std::int64_t n_restored = 0;
};

/// Everything a scheduler may do, in any order; the driver checks each step.
void run_schedule(std::uint32_t seed, const Setup& setup, int n_operations, Tally& tally) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 rng(seed);
  const TempFolder folder;
  const bool is_long = setup.ram && rng() % 4 == 0;  // of several blocks
  BackendInfo info =
      CacheDriver::info(is_long ? 900 : 40 + static_cast<std::int32_t>(rng() % 160),
                        static_cast<std::int32_t>(rng() % 8), 1 + static_cast<int>(rng() % 4));
  info.partial_removal = setup.partial_removal;
  CacheOptions options;
  options.costs.load_call_ns = rng() % 2 ? 0 : options.costs.load_call_ns;
  if (setup.ram) {
    options.max_ram_bytes =
        CacheDriver::kTokenBytes * static_cast<std::int64_t>(rng() % (is_long ? 1500 : 200));
  }
  if (setup.disk) {
    options.disk_folder = folder.path();
    options.max_disk_bytes = 64 * 1024 + static_cast<std::int64_t>(rng() % 12000);
  }
  auto d = std::make_unique<CacheDriver>(info, options);
  PathSource paths(rng, is_long ? 700 : 80);
  std::vector<SeqId> running;
  const auto any_running = [&] { return running[rng() % running.size()]; };
  const auto finish = [&](SeqId seq) {
    d->finish(seq);
    std::erase(running, seq);
  };
  for (int i = 0; i < n_operations && !::testing::Test::HasFailure(); ++i) {
    const auto kind = rng() % 100;
    if (kind < 25) {
      if (static_cast<std::int32_t>(running.size()) == info.n_seqs) continue;
      std::optional<CacheNamespace> space = rng() % 4 == 0 ? 1 : 0;
      if (rng() % 16 == 0) space.reset();
      const SeqId seq = d->start(space, paths.next());
      tally.n_shared += d->length(seq);
      running.push_back(seq);
    } else if (kind < 60 && !running.empty()) {
      const SeqId seq = any_running();
      const Pos n = std::min(d->n_left(seq), 1 + static_cast<Pos>(rng() % 40));
      if (n == 0) {
        if (d->room(1)) d->extend(seq, {static_cast<TokenId>(rng() % 2)});
      } else if (d->room(n)) {
        d->compute(seq, n, rng() % 4 == 0);
      } else {
        finish(any_running());
      }
    } else if (kind < 64 && running.size() > 1) {  // in one call
      std::vector<SeqId> both = {running[0], running[1]};
      const Pos n = 1 + static_cast<Pos>(rng() % 20);
      if (std::min(d->n_left(both[0]), d->n_left(both[1])) < n || !d->room(2 * n)) continue;
      for (const SeqId seq : both) d->decode(seq, n);
      for (const SeqId seq : both) d->publish(seq);
      d->check();
    } else if (kind < 76 && !running.empty()) {
      finish(any_running());
    } else if (kind < 80) {
      d->room(static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(info.n_ctx)));
    } else if (kind < 86 && !running.empty()) {
      d->advance(any_running());
    } else if (kind < 95 && !running.empty()) {
      tally.n_restored += d->restore(any_running());
    } else if (kind == 95 && rng() % 8 == 0) {
      d->clear();
    } else if (kind == 96) {
      d->cache->pin(std::to_string(rng() % 3), rng() % 2, paths.next(), i + 30);
    } else if (kind == 97) {
      d->cache->expire_pins(i);
      d->cache->unpin(std::to_string(rng() % 3));
    } else if (kind == 98 && rng() % 10 == 0) {
      folder.damage();
    } else if (kind == 99 && rng() % 30 == 0) {
      if (setup.partial_removal && rng() % 2) {
        d->backend.clear();
        d->cache->forget_all();
        d->forget();
      } else {
        while (!running.empty()) finish(running.back());
        d->flush();
        d.reset();  // the lock on nothing: a restart
        d = std::make_unique<CacheDriver>(info, options);
      }
      running.clear();
    }
  }
  while (!running.empty()) finish(running.back());
  d->clear();
  EXPECT_EQ(d->backend.n_cells_used(), 0);
  EXPECT_EQ(d->metrics().n_bytes_ram, 0);
}

TEST(CacheFuzz, WithoutLowerTiers) {
  Tally tally;
  for (std::uint32_t seed = 1; seed <= 40; ++seed) run_schedule(seed, {}, 1500, tally);
  EXPECT_GT(tally.n_shared, 10000);
}

TEST(CacheFuzz, WithHostMemory) {
  Tally tally;
  for (std::uint32_t seed = 1001; seed <= 1040; ++seed) {
    run_schedule(seed, {.ram = true}, 1500, tally);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(tally.n_restored, 100);
}

TEST(CacheFuzz, WithADisk) {
  for (const bool ram : {false, true}) {
    Tally tally;
    for (std::uint32_t seed = 2001; seed <= 2020; ++seed) {
      run_schedule(seed + ram * 1000, {.ram = ram, .disk = true}, 800, tally);
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_GT(tally.n_restored, 50);
  }
}

TEST(CacheFuzz, Untrimmable) {
  Tally tally;
  for (std::uint32_t seed = 4001; seed <= 4040; ++seed) {
    run_schedule(seed, {.partial_removal = false}, 1500, tally);
    if (::testing::Test::HasFailure()) return;
  }
  EXPECT_GT(tally.n_shared, 1000);
}

}  // namespace
}  // namespace llamaherd

#include <gtest/gtest.h>

#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cache_driver.h"
#include "common/error.h"
#include "engine_thread_fixture.h"

namespace llamaherd {
namespace {

using EngineThreadCache = EngineThreadTest;

std::vector<Spec> specs_with_one_prefix(std::mt19937& rng, int n, int n_prefix) {
  const Tokens prefix = random_prompt(rng, n_prefix);
  std::vector<Spec> specs;
  for (int i = 0; i < n; ++i) specs.push_back(greedy(prefix + random_prompt(rng, 6), 8));
  return specs;
}

TEST_F(EngineThreadCache, PinnedUnpinnedAndClearedFromOtherThreads) {
  options_.cache.max_ram_bytes = 1000;
  start();
  std::mt19937 rng(41);
  const auto specs = specs_with_one_prefix(rng, 20, 50);
  std::vector<std::thread> callers;
  for (unsigned t = 0; t < 3; ++t) {
    callers.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 200; ++i) {
        const std::string name = std::to_string(random() % 4);
        switch (random() % 4) {
          case 0:
            engine_->unpin(name);
            break;
          case 1:
            engine_->clear_cache();
            break;
          default:
            engine_->pin(name, 0, specs[random() % specs.size()].prompt, 0);
        }
        EXPECT_LE(engine_->metrics().cache.n_pins, 4);
        std::this_thread::yield();
      }
    });
  }
  std::vector<RequestId> ids;
  for (const Spec& spec : specs) ids.push_back(submit(spec));
  drain_all(false);
  for (std::thread& caller : callers) caller.join();
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(collector_[ids[i]], run_alone(specs[i]));
  engine_->close();
  EXPECT_THROW(engine_->pin("it", 0, {1}, 0), EngineDeadError);
  EXPECT_THROW(engine_->unpin("it"), EngineDeadError);
  EXPECT_THROW(engine_->clear_cache(), EngineDeadError);
}

/// Fills the cache so that the first prompt lies in the lower tiers only.
void push_out(EngineThread& engine, std::mt19937& rng) {
  for (int i = 0; i < 4; ++i) {
    engine.submit(random_prompt(rng, 90), greedy({}, 2).params);
    while (engine.step()) {
    }
  }
}

TEST_F(EngineThreadCache, CloseInTheMiddleOfARestore) {
  for (const bool disk : {false, true}) {
    const TempFolder folder;
    collector_ = {};
    options_ = small_herd();
    options_.limits.max_len = 200;
    options_.fake.info.n_ctx = options_.fake.info.n_ctx_train = 700;
    options_.fake.info.kv_save_block = 64;
    options_.cache.max_ram_bytes = disk ? 0 : 1 << 20;
    options_.cache.disk_folder = disk ? folder.path() : "";
    options_.cache.max_disk_bytes = 1 << 20;
    options_.limits.max_len = 690;
    start(EngineThread::Mode::kStepped);
    std::mt19937 rng(43);
    const Spec first = greedy(random_prompt(rng, 600), 2);
    const RequestId done = submit(first);
    while (engine_->step()) {
    }
    for (int i = 0; i < 8; ++i) push_out(*engine_, rng);
    engine_->drain(0);
    collector_ = {};
    // Beside one that decodes, a block comes back per step.
    Spec busy = greedy({5, 6, 7}, 60);
    busy.params.ignore_eos = true;
    const RequestId decoding = submit(busy);
    engine_->step();
    const RequestId id = submit(first);
    engine_->step();
    const CacheMetrics m = engine_->metrics().cache;
    EXPECT_GT(m.n_from_ram + m.n_from_disk, 0);
    EXPECT_LT(m.n_from_ram + m.n_from_disk, 600);
    engine_->close();
    collector_.take(engine_->drain(0));
    EXPECT_EQ(collector_[id].reason, FinishReason::kCancelled);
    EXPECT_EQ(collector_[decoding].reason, FinishReason::kCancelled);
    EXPECT_EQ(engine_->fatal_error(), "");
    EXPECT_NE(done, id);
  }
}

TEST_F(EngineThreadCache, CloseWhileACallHangsBesideARestore) {
  options_.cache.max_ram_bytes = 1 << 20;
  start();
  std::mt19937 rng(47);
  const Spec first = greedy(random_prompt(rng, 80), 2);
  submit(first);
  drain_all(false);
  for (int i = 0; i < 6; ++i) {
    submit(greedy(random_prompt(rng, 80), 2));
    drain_all(false);
  }
  backend_->hang(true);
  submit(greedy({5, 6, 7}, 20));
  submit(first);
  wait_until_hanging();
  engine_->close();
  drain_all(true);
  EXPECT_EQ(engine_->fatal_error(), "");
}

TEST_F(EngineThreadCache, CloseFlushesAndTheNextEngineFindsIt) {
  const TempFolder folder;
  options_.cache.disk_folder = folder.path();
  options_.cache.max_disk_bytes = 1 << 20;
  std::mt19937 rng(53);
  const Spec spec = greedy(random_prompt(rng, 80), 8);
  for (int i = 0; i < 2; ++i) {
    collector_ = {};
    start();
    const RequestId id = submit(spec);
    drain_all(false);
    EXPECT_EQ(collector_[id], run_alone(spec));
    EXPECT_EQ(engine_->metrics().cache.n_from_disk, i == 0 ? 0 : 79);
    engine_->close();
  }
}

}  // namespace
}  // namespace llamaherd

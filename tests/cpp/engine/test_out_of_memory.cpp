#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

#include "engine_thread_fixture.h"

namespace {

// Allocations that this thread may still make.
thread_local std::int64_t n_allocations_left = std::numeric_limits<std::int64_t>::max();

void* allocate(std::size_t size) {
  if (n_allocations_left-- <= 0) {
    n_allocations_left = 0;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// For the whole binary; nothing changes for threads that set no bound.
void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace llamaherd {
namespace {

class OutOfMemory : public EngineThreadTest {
 protected:
  /// Whether the bound was met in one step.
  bool step(std::int64_t n_allocations) {
    n_allocations_left = n_allocations;
    try {
      engine_->step();
    } catch (const std::exception&) {
      died_ = true;
    }
    const bool met = n_allocations_left <= 0;
    n_allocations_left = std::numeric_limits<std::int64_t>::max();
    return met;
  }

  void run_to_the_end() {
    for (int i = 0; !died_ && i < 10'000 && !collector_.complete(); ++i) {
      engine_->step();
      collector_.take(engine_->drain(0));
    }
    collector_.take(engine_->drain(0));
    EXPECT_TRUE(collector_.complete()) << "a request has no last delta";
    EXPECT_EQ(engine_->finished(), died_);
  }

  Spec with_everything(RequestId i) const {
    Spec spec = greedy({5, 6, static_cast<TokenId>(i)}, 6);
    spec.params.logprobs = spec.params.prompt_logprobs = 2;
    spec.params.frequency_penalty = 1;
    spec.params.stop = {"ab", "cde"};
    return spec;
  }

  bool died_ = false;
};

TEST_F(OutOfMemory, EveryRequestIsToldWhereverAStepRunsOut) {
  int n_died = 0;
  for (std::int64_t step_with = 0; step_with < 4; ++step_with) {
    bool met = true;
    for (std::int64_t n = 0; met && n < 5'000; n += 1 + n / 16) {
      collector_ = {};
      died_ = false;
      start(EngineThread::Mode::kStepped);
      for (RequestId i = 0; i < 6; ++i) submit(with_everything(i));
      for (std::int64_t i = 0; i < step_with; ++i) engine_->step();
      met = step(n);
      run_to_the_end();
      n_died += died_;
      if (HasFailure()) return;
    }
    EXPECT_FALSE(met) << "no step was whole";
  }
  EXPECT_GT(n_died, 20);
}

TEST_F(OutOfMemory, SubmittingChangesNothingIfItFails) {
  start(EngineThread::Mode::kStepped);
  Spec spec = with_everything(1);
  spec.params.n = 3;
  bool met = true;
  for (std::int64_t n = 0; met; ++n) {
    n_allocations_left = n;
    RequestId first = 0;
    try {
      first = engine_->submit(spec.prompt, spec.params);
    } catch (const std::bad_alloc&) {
    }
    met = n_allocations_left <= 0;
    n_allocations_left = std::numeric_limits<std::int64_t>::max();
    if (first == 0) continue;
    for (RequestId id = first; id < first + 3; ++id) collector_.expect(id);
  }
  run_to_the_end();
}

}  // namespace
}  // namespace llamaherd

// Prints the number of memory allocations per step while 16 sequences decode: number of steps,
// number of allocations. Counts operator new within Engine::step, except in the fake backend;
// herd_core allocates memory in no other way.
//
// Not counted, although not zero: a sequence's edge in the radix tree doubles its capacity when it
// is full, so the counted steps lie between two such reallocations; text of a step that exceeds a
// std::string's 15 inline bytes, log-probabilities and unstreamed outputs belong to the caller, who
// takes them with the delta.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cost/decode_batching.h"
#include "steady_herd.h"

namespace {

bool counting = false;
std::int64_t n_allocations = 0;

void* allocate(std::size_t n, std::size_t alignment) {
  n_allocations += counting;
  n = (n + alignment - 1) / alignment * alignment;
  if (void* memory = std::aligned_alloc(alignment, n)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// All other forms of the library call these.
void* operator new(std::size_t n) { return allocate(n, alignof(std::max_align_t)); }
void* operator new(std::size_t n, std::align_val_t alignment) {
  return allocate(n, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace {

using namespace llamaherd;

class Pause {
 public:
  Pause() : counting_(std::exchange(counting, false)) {}
  Pause(const Pause&) = delete;
  ~Pause() { counting = counting_; }

 private:
  bool counting_;
};

class Uncounted : public FakeBackend {
 public:
  using FakeBackend::FakeBackend;

  DecodeStatus decode(const BatchView& batch) override {
    const Pause pause;
    return FakeBackend::decode(batch);
  }
  bool remove(SeqId seq, Pos begin, Pos end) override {
    const Pause pause;
    return FakeBackend::remove(seq, begin, end);
  }
  void copy(SeqId from, SeqId to, Pos begin, Pos end) override {
    const Pause pause;
    FakeBackend::copy(from, to, begin, end);
  }
};

void count_steps(const char* name, const SteadyOptions& options) {
  constexpr Pos kWarm = 600, kEnd = 750;
  SteadyHerd<Uncounted> herd(options);
  herd.run_to(kWarm);
  const std::int64_t n_steps = herd.metrics().n_steps;
  n_allocations = 0;
  counting = true;
  herd.run_to(kEnd);
  counting = false;
  if (herd.any_ended()) throw std::logic_error("a sequence has ended");
  std::printf("%s %lld %lld\n", name, static_cast<long long>(herd.metrics().n_steps - n_steps),
              static_cast<long long>(n_allocations));
}

SteadyOptions greedy() {
  SteadyOptions options;
  options.params.temperature = 0;
  return options;
}

SteadyOptions sampled() {
  SteadyOptions options;
  options.params.top_k = 40;
  options.params.top_p = 0.95f;
  options.params.repetition_penalty = 1.1f;
  options.params.stop = {"\n\nUser:"};
  return options;
}

/// Calls of five rows are the fastest: fifteen sequences get a token, one waits.
SteadyOptions in_turns() {
  SteadyOptions options = greedy();
  options.calibration = {{{1, 10e6}, {5, 11e6}, {6, 80e6}, {16, 90e6}}};
  return options;
}

/// Several calls per step.
SteadyOptions in_calls() {
  SteadyOptions options = greedy();
  options.calibration = {{{1, 10e6}, {8, 12e6}, {9, 30e6}, {16, 40e6}}};
  return options;
}

SteadyOptions guessed() {
  SteadyOptions options = greedy();
  options.repeats = true;
  options.calibration = {{{1, 10e6}, {kChunkRows, 11e6}}};
  return options;
}

SteadyOptions in_states() {
  SteadyOptions options = greedy();
  options.trims = false;
  return options;
}

/// Plans are recomputed after each change of the cost model.
void count_learning() {
  constexpr int kChanges = 100;
  CostModel model;
  DecodeBatching widths(16, 16);
  const auto learn = [&](std::int32_t n_rows) {
    model.observe({n_rows}, 1e6 * (10 + n_rows));
    widths.most_productive(16, model);
    widths.of(16, model);
  };
  for (std::int32_t n = 1; n <= 16; ++n) learn(n);
  const std::int64_t version = model.version();
  n_allocations = 0;
  counting = true;
  while (model.version() < version + kChanges) learn(16);
  counting = false;
  std::printf("learning %d %lld\n", kChanges, static_cast<long long>(n_allocations));
}

}  // namespace

int main() {
  count_steps("greedy", greedy());
  count_steps("sampled", sampled());
  count_steps("in_turns", in_turns());
  count_steps("in_calls", in_calls());
  count_steps("guessed", guessed());
  count_steps("in_states", in_states());
  count_learning();
}

// Runs one of these workloads, to be counted by
//
//   valgrind --tool=callgrind --toggle-collect=measured instructions WORK
//
// Without a name it prints all names. `toolchain` prints the versions that counts depend on besides
// the source.

#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "cached_leaves.h"
#include "measured.h"
#include "pieces.h"
#include "planned_call.h"
#include "planned_herd.h"
#include "steady_herd.h"
#include "still_backend.h"
#include "tree_paths.h"
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif

namespace {

using namespace llamaherd;

void plan(std::int32_t n_queued) {
  PlannedHerd herd(n_queued);
  for (int i = 0; i < 100; ++i) herd.carry_out(herd.plan());
  for (int i = 0; i < 100; ++i) {
    const StepPlan* plan = nullptr;
    measured([&] { plan = &herd.plan(); });
    herd.carry_out(*plan);
  }
}

void build(std::int32_t n_decoding, Pos n_prompt) {
  PlannedCall call(n_decoding, n_prompt);
  call.build();
  measured([&] {
    for (int i = 0; i < 100; ++i) call.build();
  });
}

void put(Pieces::Kind kind) {
  const Pieces pieces(kind, 1000);
  const Detokenizer stream(StopStrings(Pieces::stops()));
  measured([&] { pieces.put_all(stream); });
}

void tree() {
  const TreePaths paths(64, 500);
  TreePaths::Tree tree;
  measured([&] {
    paths.insert_all(tree);
    paths.find_all(tree);
    paths.remove_all(tree);
  });
}

void grow() {
  const TreePaths paths(64, 500);
  TreePaths::Tree tree;
  paths.insert_all(tree);
  measured([&] { paths.grow_all(tree, 64); });
}

/// With free cells, and with cells evicted from other leaves.
void cache(bool has_room) {
  CachedLeaves leaves(200, 1000);
  leaves.build(has_room ? leaves.n_new() : 0);
  for (std::int64_t i = 0; i < leaves.n_requests(); ++i) {
    const std::vector<TokenId> prompt = leaves.prompt(1000);
    measured([&] { leaves.request(prompt); });
  }
}

void step() {
  SteadyOptions options;
  options.params.temperature = 0;
  options.params.prompt_lookup = false;  // all drafts would be accepted
  SteadyHerd<StillBackend> herd(options);
  herd.run_to(150);
  for (int i = 0; i < 100; ++i) measured([&] { herd.step(); });
}

const std::map<std::string, std::function<void()>> kWorks = {
    {"scheduler", [] { plan(16); }},
    {"scheduler_long_queue", [] { plan(1000); }},
    {"batch_builder_decode", [] { build(16, 0); }},
    {"batch_builder_prompt", [] { build(16, 512); }},
    {"text_stream_words", [] { put(Pieces::Kind::kWords); }},
    {"text_stream_characters", [] { put(Pieces::Kind::kCharacters); }},
    {"radix_tree", tree},
    {"radix_tree_grow", grow},
    {"prefix_cache", [] { cache(true); }},
    {"prefix_cache_full", [] { cache(false); }},
    {"engine_step", step},
};

void print_toolchain() {
#if defined(__clang__)
  std::printf("compiler clang %s\n", __clang_version__);
#else
  std::printf("compiler gcc %s\n", __VERSION__);
#endif
#ifdef __GLIBCXX__
  std::printf("standard_library libstdc++ %d %d\n", _GLIBCXX_RELEASE, __GLIBCXX__);
#endif
#ifdef __GLIBC__
  std::printf("c_library glibc %s\n", gnu_get_libc_version());
#endif
#ifdef __x86_64__
  std::printf("architecture x86_64\n");
#endif
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  const auto work = kWorks.find(name);
  if (work != kWorks.end()) {
    work->second();
  } else if (name == "toolchain") {
    print_toolchain();
  } else if (name.empty()) {
    for (const auto& [known, function] : kWorks) std::printf("%s\n", known.c_str());
  } else {
    std::fprintf(stderr, "unknown workload %s\n", name.c_str());
    return 2;
  }
}

// Alternates decode calls of a whole model with ggml's CPU kernels and with llamaherd's in one
// process.
//
//   kernel_steps N_THREADS N_RUNS MODEL...
//
// Prints a Markdown table: milliseconds of one llama.cpp call and the ratio, medians of N_RUNS
// pairs of turns of 100 ms. Excludes scheduling, sampling and reading logits. The machine must be
// idle.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "llama/backend/llama_backend.h"
#include "llama/common/kernel_choice.h"
#include "llama/model/llama_model.h"
#include "rows.h"

using namespace llamaherd;

namespace {

constexpr int kSeqs = 33;
constexpr int kCells = 32 * 514 + 1024;

class Machine {
 public:
  Machine(const std::string& path, const std::string& kernels, int n_threads) {
    EngineConfig config;
    config.max_seqs = kSeqs;
    config.token_budget = 512;
    config.n_ctx = kCells;
    config.n_threads = n_threads;
    config.cpu_kernels = kernels;
    name_ = kernels_name(config);
    LoadProgress progress;
    const std::int64_t begin = steady_clock().now_ns();
    auto model = std::make_shared<LlamaModel>(path, config, progress);
    load_ms_ = 1e-6 * static_cast<double>(steady_clock().now_ns() - begin);
    backend_ = std::make_unique<LlamaBackend>(std::move(model), config);
  }

  const std::string& name() const { return name_; }
  double load_ms() const { return load_ms_; }

  /// Milliseconds.
  double decode(const Rows& rows) {
    const std::int64_t begin = steady_clock().now_ns();
    rows.decode(*backend_);
    return 1e-6 * static_cast<double>(steady_clock().now_ns() - begin);
  }

  void remove(SeqId seq, Pos begin) { backend_->remove(seq, begin, kToEnd); }
  void share(SeqId to, Pos end) { backend_->copy(0, to, 0, end); }
  void clear() { backend_->clear(); }

  double prefill(SeqId seq, int n) {
    Rows rows;
    rows.add_prompt(seq, n);
    return decode(rows);
  }

 private:
  std::string name_;
  double load_ms_;
  std::unique_ptr<LlamaBackend> backend_;
};

struct Case {
  std::string name;
  std::function<void(Machine&)> prepare;
  std::function<double(Machine&)> run;  // runs and undoes one call; returns its milliseconds
};

double prefill_once(Machine& machine, SeqId seq, int n) {
  const double ms = machine.prefill(seq, n);
  machine.remove(seq, 0);
  return ms;
}

double decode_once(Machine& machine, int n_rows, Pos pos) {
  Rows rows;
  for (SeqId seq = 0; seq < n_rows; ++seq) rows.add(seq, pos, true);
  const double ms = machine.decode(rows);
  for (SeqId seq = 0; seq < n_rows; ++seq) machine.remove(seq, pos);
  return ms;
}

void fill_private(Machine& machine, int n_seqs, int n) {
  machine.clear();
  for (SeqId seq = 0; seq < n_seqs; ++seq) machine.prefill(seq, n);
}

void fill_shared(Machine& machine, int n_seqs, int n) {
  machine.clear();
  machine.prefill(0, n);
  for (SeqId seq = 1; seq < n_seqs; ++seq) machine.share(seq, n);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int n : {128, 512}) {
    all.push_back({"prefill " + std::to_string(n), [](Machine& m) { m.clear(); },
                   [n](Machine& m) { return prefill_once(m, 0, n); }});
  }
  for (const int n : {1, 2, 4, 8, 16, 32}) {
    all.push_back({"decode " + std::to_string(n) + " rows, 150 cells each",
                   [n](Machine& m) { fill_private(m, n, 150); },
                   [n](Machine& m) { return decode_once(m, n, 150); }});
  }
  for (const int n : {8, 32}) {
    all.push_back({"decode " + std::to_string(n) + " rows, 512 shared cells",
                   [n](Machine& m) { fill_shared(m, n, 512); },
                   [n](Machine& m) { return decode_once(m, n, 512); }});
  }
  all.push_back({"decode 32 rows, 512 cells each", [](Machine& m) { fill_private(m, 32, 512); },
                 [](Machine& m) { return decode_once(m, 32, 512); }});
  for (const int n : {128, 512}) {
    all.push_back({"prefill " + std::to_string(n) + " beside 32 x 512 cells", [](Machine&) {},
                   [n](Machine& m) { return prefill_once(m, 32, n); }});
  }
  return all;
}

// Duration of a turn, long enough to average out noise.
constexpr double kTurnMs = 100;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

/// Median of one turn's calls, without the first, which follows a change of kernels.
double take_turn(const Case& c, Machine& machine) {
  double total = c.run(machine);
  std::vector<double> ms;
  do {
    ms.push_back(c.run(machine));
    total += ms.back();
  } while (total < kTurnMs);
  return median(ms);
}

void compare(const std::string& path, int n_threads, int n_runs) {
  Machine stock(path, "stock", n_threads), ours(path, "auto", n_threads);
  std::printf("\n%s, %d threads; loaded in %.0f ms (stock) and %.0f ms\n\n",
              std::filesystem::path(path).stem().c_str(), n_threads, stock.load_ms(),
              ours.load_ms());
  std::printf("| call | stock, ms | %s, ms | ratio |\n| --- | --- | --- | --- |\n",
              ours.name().c_str());
  for (const Case& c : cases()) {
    c.prepare(stock);
    c.prepare(ours);
    std::vector<double> stock_ms, our_ms, ratios;
    for (int i = 0; i < n_runs; ++i) {
      stock_ms.push_back(take_turn(c, stock));
      our_ms.push_back(take_turn(c, ours));
      ratios.push_back(stock_ms.back() / our_ms.back());
    }
    std::printf("| %s | %.2f | %.2f | %.2f |\n", c.name.c_str(), median(stock_ms), median(our_ms),
                median(ratios));
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: kernel_steps N_THREADS N_RUNS MODEL...\n");
    return 2;
  }
  for (int i = 3; i < argc; ++i) compare(argv[i], std::atoi(argv[1]), std::atoi(argv[2]));
}

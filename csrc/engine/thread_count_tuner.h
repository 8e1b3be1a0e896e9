#pragma once

#include <cstdint>

namespace llamaherd {

/// Chooses the number of threads of decode calls: all, unless other processes keep cores busy.
/// ggml's threads synchronize in a barrier after every graph node, so a thread that shares its core
/// delays all others; fewer threads with a core each are then faster. Measured by trials: one
/// thread fewer when calls are slow, one more at intervals; the faster number is kept.
class ThreadCountTuner {
 public:
  static constexpr double kSlow = 1.5;
  static constexpr std::int32_t kTrialCalls = 4;
  static constexpr std::int32_t kLeastWait = 16;  // calls between two trials
  static constexpr std::int32_t kMostWait = 256;  // the same after many trials without a change

  explicit ThreadCountTuner(std::int32_t n_threads) : n_max_(n_threads), n_(n_threads) {}

  /// Number of threads of the next call.
  std::int32_t n_threads() const { return n_trial_ > 0 ? n_trial_ : n_; }

  /// `slowness`: duration of the last call relative to all threads of an idle machine.
  void observe(double slowness);

 private:
  void begin_trial();
  void end_trial();

  std::int32_t n_max_;
  std::int32_t n_;
  double mean_ = 0;           // recent slowness; 0: unknown
  std::int32_t n_calls_ = 0;  // with the present number of threads, or in the trial
  std::int32_t wait_ = kLeastWait;
  std::int32_t n_trial_ = 0;  // number of threads in the trial; 0: no trial
  bool tried_more_ = false;
  double trial_sum_ = 0;
};

}  // namespace llamaherd

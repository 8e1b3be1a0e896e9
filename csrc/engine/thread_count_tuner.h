#pragma once

#include <cstdint>

namespace llamaherd {

/// How many threads decode calls should run on: all, unless other processes keep cores busy. ggml's
/// threads meet in a barrier after every graph node, so one that has to share its core makes all
/// wait; then fewer threads, each with a core to itself, are quicker. Found by trying: one thread
/// less when calls are slow, one more from time to time, and what turns out quicker is kept.
class ThreadCountTuner {
 public:
  static constexpr double kSlow = 1.5;
  static constexpr std::int32_t kTrialCalls = 4;
  static constexpr std::int32_t kLeastWait = 16;  // calls between two trials,
  static constexpr std::int32_t kMostWait = 256;  // after many that changed nothing

  explicit ThreadCountTuner(std::int32_t n_threads) : n_max_(n_threads), n_(n_threads) {}

  /// For the next call.
  std::int32_t n_threads() const { return n_trial_ > 0 ? n_trial_ : n_; }

  /// The call took so many times what it would have taken on all threads of an idle machine.
  void observe(double slowness);

 private:
  void begin_trial();
  void end_trial();

  std::int32_t n_max_;
  std::int32_t n_;
  double mean_ = 0;           // slowness of late; 0: not known
  std::int32_t n_calls_ = 0;  // with the present number, or of the trial
  std::int32_t wait_ = kLeastWait;
  std::int32_t n_trial_ = 0;  // threads that are tried; 0: none
  bool tried_more_ = false;
  double trial_sum_ = 0;
};

}  // namespace llamaherd

#include "engine/thread_count_tuner.h"

#include <algorithm>

namespace llamaherd {
namespace {

constexpr double kMeanRate = 0.2;

// A smaller gain is within the noise.
constexpr double kGain = 0.9;

}  // namespace

void ThreadCountTuner::observe(double slowness) {
  if (n_max_ <= 1) return;
  ++n_calls_;
  if (n_trial_ > 0) {
    trial_sum_ += slowness;
    if (n_calls_ == kTrialCalls) end_trial();
    return;
  }
  mean_ += (mean_ == 0 ? 1 : kMeanRate) * (slowness - mean_);
  if (n_calls_ >= wait_) begin_trial();
}

/// Tries one thread more or less, alternately; fewer only while calls are slow.
void ThreadCountTuner::begin_trial() {
  const bool more = n_ == 1 || (n_ < n_max_ && !tried_more_);
  tried_more_ = more;
  if (!more && mean_ <= kSlow) return;
  n_trial_ = more ? n_ + 1 : n_ - 1;
  n_calls_ = 0;
  trial_sum_ = 0;
}

void ThreadCountTuner::end_trial() {
  const double mean = trial_sum_ / kTrialCalls;
  if (mean < kGain * mean_) {
    n_ = n_trial_;
    mean_ = mean;
    wait_ = kLeastWait;
  } else {
    wait_ = std::min(2 * wait_, kMostWait);
  }
  n_trial_ = 0;
  n_calls_ = 0;
}

}  // namespace llamaherd

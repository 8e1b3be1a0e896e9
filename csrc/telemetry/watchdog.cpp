#include "telemetry/watchdog.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace llamaherd {
namespace {

double seconds(double ns) { return 1e-9 * ns; }

template <typename... Values>
std::string print(const char* format, Values... values) {
  std::array<char, 256> text;
  std::snprintf(text.data(), text.size(), format, values...);
  return text.data();
}

}  // namespace

void Watchdog::call_begins(std::int64_t now_ns, double predicted_ns, std::int32_t n_decode_rows,
                           std::int32_t n_prefill_rows) {
  const std::lock_guard lock(mutex_);
  call_begin_ns_ = now_ns;
  predicted_ns_ = predicted_ns;
  n_decode_rows_ = n_decode_rows;
  n_prefill_rows_ = n_prefill_rows;
}

void Watchdog::call_ends(std::int64_t now_ns, bool succeeded) {
  const std::lock_guard lock(mutex_);
  call_begin_ns_ = 0;
  if (succeeded) progress_ns_ = now_ns;
}

void Watchdog::loads(std::int64_t now_ns, const Load& load) {
  const std::lock_guard lock(mutex_);
  // Requests that arrived after an idle period could not have progressed before.
  if (load_.n_running + load_.n_waiting == 0) progress_ns_ = now_ns;
  load_ = load;
}

Health Watchdog::health(std::int64_t now_ns) const {
  const std::lock_guard lock(mutex_);
  return health_locked(now_ns);
}

Health Watchdog::health_locked(std::int64_t now_ns) const {
  Health health;
  health.n_running = load_.n_running;
  health.n_waiting = load_.n_waiting;
  const bool any_work = load_.n_running + load_.n_waiting > 0;
  if (any_work) health.since_progress_s = seconds(static_cast<double>(now_ns - progress_ns_));
  if (call_begin_ns_ != 0) {
    health.call_s = seconds(static_cast<double>(now_ns - call_begin_ns_));
    health.call_predicted_s = seconds(predicted_ns_);
  }
  const double most_s = std::max(kLeastCallS, kMostTimes * health.call_predicted_s);
  if (health.call_s > most_s) {
    health.reason = print(
        "a decode call with %d decode and %d prefill rows has run for %.1f s; predicted: %.3f s",
        n_decode_rows_, n_prefill_rows_, health.call_s, health.call_predicted_s);
  } else if (call_begin_ns_ == 0 && health.since_progress_s > kMostIdleS) {
    health.reason =
        print("no token was computed for %.1f s with %d requests running and %d waiting",
              health.since_progress_s, load_.n_running, load_.n_waiting);
  }
  health.ok = health.reason.empty();
  return health;
}

std::string Watchdog::take_incident(std::int64_t now_ns) {
  const std::lock_guard lock(mutex_);
  const Health health = health_locked(now_ns);
  const bool was_reported = told_;
  told_ = !health.ok;
  if (health.ok || was_reported) return {};
  return health.reason + print(
                             " (%d running, %d waiting, %d of %d KV cells used, last progress "
                             "%.1f s ago)",
                             load_.n_running, load_.n_waiting, load_.n_cells_used, load_.n_cells,
                             health.since_progress_s);
}

}  // namespace llamaherd

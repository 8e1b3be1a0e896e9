#pragma once

#include <cstdint>
#include <mutex>
#include <string>

namespace llamaherd {

/// How an engine does, to be asked from any thread.
struct Health {
  bool ok = true;
  std::string reason;           // why not
  double since_progress_s = 0;  // since a token was computed or nothing was left to do
  double call_s = 0;            // the decode call under way has taken so long; 0: none is
  double call_predicted_s = 0;  // and was predicted to take so long
  std::int32_t n_running = 0;
  std::int32_t n_waiting = 0;
};

/// Notices a decode call that outlasts its prediction many times, and requests that get nowhere.
/// Thread-safe: the engine's thread reports, any thread asks.
class Watchdog {
 public:
  // A machine that is busy otherwise slows a call down a hundred times; less is no news.
  static constexpr double kMostTimes = 100;
  static constexpr double kLeastCallS = 5;
  static constexpr double kMostIdleS = 15;

  struct Load {
    std::int32_t n_running = 0;
    std::int32_t n_waiting = 0;
    std::int32_t n_cells_used = 0;
    std::int32_t n_cells = 0;
  };

  void call_begins(std::int64_t now_ns, double predicted_ns, std::int32_t n_decode_rows,
                   std::int32_t n_prefill_rows);
  void call_ends(std::int64_t now_ns, bool succeeded);
  /// Before and after each step.
  void loads(std::int64_t now_ns, const Load& load);

  Health health(std::int64_t now_ns) const;

  /// The first time an incident is asked about, what is known of it; else nothing.
  std::string take_incident(std::int64_t now_ns);

 private:
  Health health_locked(std::int64_t now_ns) const;

  mutable std::mutex mutex_;
  Load load_;
  std::int64_t progress_ns_ = 0;
  std::int64_t call_begin_ns_ = 0;  // 0: none is under way
  double predicted_ns_ = 0;
  std::int32_t n_decode_rows_ = 0;
  std::int32_t n_prefill_rows_ = 0;
  bool told_ = false;
};

}  // namespace llamaherd

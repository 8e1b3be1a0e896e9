#pragma once

#include <cstdint>
#include <mutex>
#include <string>

namespace llamaherd {

/// State of an engine.
struct Health {
  bool ok = true;
  std::string reason;           // empty if ok
  double since_progress_s = 0;  // since the last computed token; 0 without requests
  double call_s = 0;            // time of the decode call in progress; 0: none
  double call_predicted_s = 0;  // its predicted time
  std::int32_t n_running = 0;
  std::int32_t n_waiting = 0;
};

/// Detects decode calls that exceed their prediction by a large factor, and requests without
/// progress. Thread-safe: the engine's thread reports, any thread queries.
class Watchdog {
 public:
  // Load by other processes can slow a call down a hundred times.
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
  /// Called before and after each step.
  void loads(std::int64_t now_ns, const Load& load);

  Health health(std::int64_t now_ns) const;

  /// A description of an incident, once; empty if there is no new one.
  std::string take_incident(std::int64_t now_ns);

 private:
  Health health_locked(std::int64_t now_ns) const;

  mutable std::mutex mutex_;
  Load load_;
  std::int64_t progress_ns_ = 0;
  std::int64_t call_begin_ns_ = 0;  // 0: no call in progress
  double predicted_ns_ = 0;
  std::int32_t n_decode_rows_ = 0;
  std::int32_t n_prefill_rows_ = 0;
  bool told_ = false;
};

}  // namespace llamaherd

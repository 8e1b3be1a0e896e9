#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/types.h"

namespace llamaherd {

/// Records timed events of the engine while enabled. Thread-safe.
class TraceLog {
 public:
  static constexpr std::size_t kMaxEvents = std::size_t{1} << 20;  // later events are dropped

  /// Time of one request in one category.
  struct Span {
    RequestId id = 0;
    TimeCategory kind = TimeCategory::kEngine;
    std::int64_t begin_ns = 0;
    std::int64_t end_ns = 0;
  };
  /// One decode call.
  struct Call {
    std::int64_t begin_ns = 0;
    std::int64_t end_ns = 0;
    double predicted_ns = 0;
    std::int32_t n_decode_rows = 0;
    std::int32_t n_prefill_rows = 0;
    std::int32_t n_padding_rows = 0;
    std::int32_t n_waiting = 0;
    std::int32_t n_cells_used = 0;
  };

  void start() {
    const std::lock_guard lock(mutex_);
    spans_.clear();
    calls_.clear();
    last_.clear();
    on_ = true;
  }
  bool on() const { return on_.load(std::memory_order_relaxed); }

  void spent(RequestId id, TimeCategory kind, std::int64_t begin_ns, std::int64_t end_ns) {
    if (!on()) return;
    const std::lock_guard lock(mutex_);
    const auto it = last_.find(id);
    if (it != last_.end() && spans_[it->second].kind == kind &&
        spans_[it->second].end_ns == begin_ns) {
      spans_[it->second].end_ns = end_ns;
      return;
    }
    if (spans_.size() == kMaxEvents) return;
    last_[id] = spans_.size();
    spans_.push_back({id, kind, begin_ns, end_ns});
  }
  void called(const Call& call) {
    if (!on()) return;
    const std::lock_guard lock(mutex_);
    if (calls_.size() < kMaxEvents) calls_.push_back(call);
  }

  /// All events since start(); disables the trace.
  std::pair<std::vector<Span>, std::vector<Call>> take() {
    const std::lock_guard lock(mutex_);
    on_ = false;
    last_.clear();
    return {std::move(spans_), std::move(calls_)};
  }

 private:
  std::atomic<bool> on_ = false;
  std::mutex mutex_;
  std::vector<Span> spans_;
  std::vector<Call> calls_;
  std::unordered_map<RequestId, std::size_t> last_;  // span of each request
};

}  // namespace llamaherd

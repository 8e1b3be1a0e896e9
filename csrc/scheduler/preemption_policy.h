#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/types.h"

namespace llamaherd {

/// The properties of a running request that decide about preemption.
struct Runner {
  RequestId id = 0;  // higher: younger
  std::int32_t priority = 0;
  std::int32_t n_preempted = 0;  // times so far
  Pos n_progress = 0;            // tokens computed since the last start
};

/// Tokens that a preempted request computes before it can be preempted again.
inline constexpr Pos kLeastProgress = 8;

/// Headroom that a request needs to start. Doubled with each preemption, so that two requests
/// cannot preempt each other forever.
inline constexpr std::int32_t kHeadroom = 32;

/// Whether it has progressed enough to be preempted (again).
inline bool may_be_preempted(std::int32_t n_preempted, Pos n_progress) {
  return n_preempted == 0 || n_progress >= kLeastProgress;
}

/// The request to preempt: in the lowest class, among those preempted least often, the youngest.
/// Only requests that may_be_preempted(), unless `ignore_progress`. Returns an index into
/// `runners`.
std::optional<std::size_t> choose_victim(std::span<const Runner> runners, bool ignore_progress);

/// Headroom in output tokens for a request with `n_left` output tokens left.
std::int32_t headroom(std::int32_t n_left, std::int32_t n_preempted);

}  // namespace llamaherd

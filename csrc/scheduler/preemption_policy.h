#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/types.h"

namespace llamaherd {

/// A running request, as far as it matters for who has to give way.
struct Runner {
  RequestId id = 0;  // the higher, the younger
  std::int32_t priority = 0;
  std::int32_t n_preempted = 0;  // times so far
  Pos n_progress = 0;            // tokens run since it was started last
};

/// A request that was preempted runs at least so many tokens before it can be preempted again.
inline constexpr Pos kLeastProgress = 8;

/// Growth that a request finds room for when it starts; doubled with every time it was preempted,
/// so that no two requests take each other's place for ever.
inline constexpr std::int32_t kHeadroom = 32;

/// Whether it has run enough to give way (again).
inline bool may_be_preempted(std::int32_t n_preempted, Pos n_progress) {
  return n_preempted == 0 || n_progress >= kLeastProgress;
}

/// Who gives way: of the lowest class those preempted least often, of these the youngest. Of
/// those who may be preempted, unless `whoever`. Index into `runners`.
std::optional<std::size_t> choose_victim(std::span<const Runner> runners, bool whoever);

/// Output tokens a starting request should find room for, of those it has left.
std::int32_t headroom(std::int32_t n_left, std::int32_t n_preempted);

}  // namespace llamaherd

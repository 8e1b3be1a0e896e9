#include "scheduler/preemption_policy.h"

#include <algorithm>
#include <tuple>

namespace llamaherd {

std::optional<std::size_t> choose_victim(std::span<const Runner> runners, bool ignore_progress) {
  const auto rank = [](const Runner& r) { return std::tuple(r.priority, -r.n_preempted, r.id); };
  std::optional<std::size_t> victim;
  for (std::size_t i = 0; i < runners.size(); ++i) {
    const Runner& r = runners[i];
    if (!ignore_progress && !may_be_preempted(r.n_preempted, r.n_progress)) continue;
    if (!victim || rank(r) > rank(runners[*victim])) victim = i;
  }
  return victim;
}

std::int32_t headroom(std::int32_t n_left, std::int32_t n_preempted) {
  const std::int32_t n = kHeadroom << std::min(n_preempted, 16);
  return std::min(n_left, n);
}

}  // namespace llamaherd

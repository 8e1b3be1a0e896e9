#include "engine/late_masks.h"

#include <chrono>
#include <span>
#include <string>
#include <utility>

#include "engine/step_guard.h"

namespace llamaherd {
namespace {

// Longest wait of a step without rows for a mask.
constexpr std::chrono::milliseconds kStepWait{1};
// Longest wait of a request for a mask.
constexpr std::int64_t kLongestWaitS = 10;
constexpr std::int64_t kLongestWaitNs = kLongestWaitS * 1'000'000'000;

}  // namespace

void LateMasks::sample(std::vector<Delta>& out) {
  late_.clear();
  for (const auto& request : scheduler_.running()) {
    // The row of a request that was preempted meanwhile is computed again.
    if (request->n_pending() > 0) request->constrained.late_row.clear();
    if (!request->constrained.late_row.empty()) late_.push_back(request.get());
  }
  std::erase_if(late_, [&](Request* request) {
    const std::int64_t now = clock_.now_ns();
    SampledOutput sampled = sampler_.sample_row(*request, request->constrained.late_row);
    if (sampled.late && now - request->constrained.late_since_ns < kLongestWaitNs) return false;
    if (sampled.late) {
      sampled.error = "the token mask of output token " + std::to_string(request->n_output()) +
                      " was not computed within " + std::to_string(kLongestWaitS) + " s";
    } else if (sampled.poisoned) {
      sampled.error =
          "the logits of output token " + std::to_string(request->n_output()) + " are not finite";
    }
    request->constrained.late_row.clear();
    StepGuard::commit_request(*request, request->kv_len(), sampled);
    delivery_.deliver(*request, sampled, now, out);
    return true;
  });
}

void LateMasks::keep(const CallPlan& call, std::span<const SampledOutput> sampled,
                     Backend& backend) {
  for (std::size_t i = 0; i < call.items.size(); ++i) {
    if (!sampled[i].late || sampled[i].poisoned) continue;
    const std::span<const float> row = backend.logits(call.items[i].logits_row);
    Request& request = *call.items[i].request;
    request.constrained.late_row.assign(row.begin(), row.end());
    request.constrained.late_since_ns = clock_.now_ns();
  }
}

void LateMasks::wait() {
  if (!late_.empty()) late_.front()->constrained.constraint->wait(kStepWait);
}

}  // namespace llamaherd
